"""Whatever a demo started is found by its mark and ended, in whatever session it lives."""

import os
import signal
import subprocess
import sys
import uuid

from controlplane.demo.reaper import MARK, end_all, marked

STUBBORN = "import signal,time; signal.signal(15, signal.SIG_IGN); print(flush=True); time.sleep(60)"


def start(mark: str, code: str) -> subprocess.Popen[bytes]:
    child = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, MARK: mark}, stdout=subprocess.PIPE, start_new_session=True
    )
    child.stdout.readline()
    return child


def end(child: subprocess.Popen[bytes]) -> int:
    child.stdout.close()
    return child.wait(10)


def test_only_marked_processes_are_ended_and_stubborn_ones_are_killed():
    mark, other = uuid.uuid4().hex, uuid.uuid4().hex
    polite, stubborn = start(mark, "import time; print(flush=True); time.sleep(60)"), start(mark, STUBBORN)
    bystander = start(other, STUBBORN)
    try:
        assert marked(mark) == sorted([polite.pid, stubborn.pid])
        assert end_all(mark, patience=0.5) == [stubborn.pid]
        assert end(polite) == -signal.SIGTERM
        assert end(stubborn) == -signal.SIGKILL
        assert marked(other) == [bystander.pid]
    finally:
        for child in (polite, stubborn, bystander):
            child.kill()
            end(child)


def test_the_reaper_acts_when_its_stdin_ends():
    mark = uuid.uuid4().hex
    child = start(mark, "import time; print(flush=True); time.sleep(60)")
    reaper = subprocess.Popen([sys.executable, "-m", "controlplane.demo.reaper", mark], stdin=subprocess.PIPE)
    try:
        reaper.stdin.close()
        assert reaper.wait(20) == 0
        assert end(child) == -signal.SIGTERM
    finally:
        child.kill()
        reaper.kill()
        end(child)
        reaper.wait(10)


def test_a_mark_that_nobody_carries_is_nothing_to_do():
    assert end_all(uuid.uuid4().hex) == []
