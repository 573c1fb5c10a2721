"""Child processes: started, waited for, stopped whatever they do, frozen; and ports."""

import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from controlplane.demo.process import Process, ProcessError, accepts, free_port, free_ports
from tests.support.waiting import eventually

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
WITH_CHILD = "import subprocess, sys; c = subprocess.Popen(['sleep', '60']); print(c.pid, flush=True); c.wait()"


def python(tmp_path, code, **options):
    return Process("it", [sys.executable, "-c", code], log=tmp_path / "logs" / "it.log", **options)


def state_of(pid):
    """As in /proc/<pid>/stat; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return ""


def test_a_failure_shows_the_end_of_the_log(tmp_path):
    with python(tmp_path, "print('the reason'); raise SystemExit(3)") as it, pytest.raises(ProcessError) as failure:
        it.wait_until(lambda: False, what="come up", timeout=20)
    assert "code 3" in str(failure.value)
    assert "the reason" in str(failure.value)
    assert it.exit_code == 3


def test_what_ignores_term_is_killed(tmp_path):
    with python(tmp_path, STUBBORN) as it:
        it.wait_until(lambda: "up" in it.tail(), what="come up")
        assert it.stop(timeout=0.2) == -signal.SIGKILL
        assert it.stop() == -signal.SIGKILL
        assert not it.running


@pytest.mark.parametrize("how", ["stop", "kill9"])
def test_children_go_with_it(tmp_path, how):
    with python(tmp_path, WITH_CHILD) as it:
        it.wait_until(lambda: it.log.read_text().strip().isdigit(), what="start its child")
        child = int(it.log.read_text())
        getattr(it, how)()
        eventually(lambda: state_of(child) in {"", "Z"})


def test_it_is_stopped_though_it_is_frozen(tmp_path):
    with python(tmp_path, "import time; time.sleep(60)") as it:
        it.pause()
        eventually(lambda: state_of(it.pid) == "T")
        it.resume()
        eventually(lambda: state_of(it.pid) != "T")
        it.pause()
        assert it.stop() == -signal.SIGTERM


def test_it_has_a_session_and_an_environment_of_its_own(tmp_path):
    code = "import os, time; print(os.environ['MINE'], os.getsid(0) == os.getpid(), flush=True); time.sleep(60)"
    with python(tmp_path, code, env={"MINE": "yes"}) as it:
        it.wait_until(lambda: "yes True" in it.tail(), what="say so")
        assert os.getsid(it.pid) == it.pid
        with pytest.raises(ProcessError):
            it.start()


def test_it_is_waited_for_until_it_listens(tmp_path):
    port = free_port()
    code = f"import socket, time; s = socket.create_server(('127.0.0.1', {port})); time.sleep(60)"
    with python(tmp_path, code) as it:
        it.wait_for_port("127.0.0.1", port)
        assert accepts("127.0.0.1", port)


def test_ports_are_distinct_free_and_out_of_the_kernels_way():
    ports = free_ports(200) + free_ports(200)
    assert len(set(ports)) == 400
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        assert max(ports) < 32_768 or probe.getsockname()[1] < 32_768
