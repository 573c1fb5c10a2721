"""Which member of OpenBao leads, as this host sees them, in one JSON document: openbao_leader.py CA SECONDS URL...

A member's own word of who leads is stale for a while after one was lost, sealed or restored: whoever leads is asked.
"""

import json
import ssl
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor


def state(url: str, ca: str) -> str:
    """`leads` (and takes calls), `standby`, `sealed` or `empty`; else why it does not answer."""
    context = ssl.create_default_context(cafile=ca)
    handlers = (urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    # The status code of each state is asked for, so that another one is no answer of OpenBao's.
    asked = f"{url}/v1/sys/health?standbycode=211&perfstandbycode=211&sealedcode=212&uninitcode=213"
    names = {200: "leads", 211: "standby", 212: "sealed", 213: "empty"}
    try:
        with urllib.request.build_opener(*handlers).open(asked, timeout=5) as answer:
            return names.get(answer.status, f"answers with status {answer.status}")
    except urllib.error.HTTPError as exc:
        return f"answers with status {exc.code}"
    except OSError as exc:
        return str(exc)


def main(ca: str, seconds: str, *urls: str) -> int:
    end = time.monotonic() + float(seconds)
    while True:
        with ThreadPoolExecutor(len(urls)) as pool:
            states = dict(zip(urls, pool.map(lambda url: state(url, ca), urls), strict=True))
        leaders = [url for url, said in states.items() if said == "leads"]
        open_ = sum(said in {"leads", "standby"} for said in states.values())
        # Two: one of them has not heard yet that it leads no more. Without a majority that is open there will be none.
        if len(leaders) == 1 or open_ * 2 <= len(urls) or time.monotonic() > end:
            json.dump({"leader": leaders[0] if len(leaders) == 1 else "", "members": states}, sys.stdout)
            return 0
        time.sleep(0.5)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
