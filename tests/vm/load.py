"""Calls by name, in several threads, until a file appears; what came of them as JSON. Standard library only.

load.py URL THREADS STOP-FILE
"""

import collections
import json
import sys
import threading
import time
import urllib.request
from pathlib import Path

FAULTS: collections.Counter[str] = collections.Counter()
ANSWERS: collections.Counter[str] = collections.Counter()
LOCK = threading.Lock()


def run(url: str, stop: str) -> None:
    while not Path(stop).exists():
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                who = json.load(answer)["host"]
            with LOCK:
                ANSWERS[who] += 1
        except Exception as exc:
            with LOCK:
                FAULTS[f"{time.strftime('%H:%M:%S')} {exc}"] += 1
        time.sleep(0.02)


if __name__ == "__main__":
    threads = [threading.Thread(target=run, args=(sys.argv[1], sys.argv[3])) for _ in range(int(sys.argv[2]))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps({"answers": ANSWERS, "faults": FAULTS}))
