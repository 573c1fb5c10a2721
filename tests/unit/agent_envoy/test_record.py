"""What the launcher writes down, and its lock."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from agent.envoy import record
from agent.envoy.record import Record, Running


def me(role="current"):
    return Running(os.getpid(), record.start_of(os.getpid()), 3, role)


def written(*running):
    return Record(os.getpid(), record.boot(), "live", base_id=7, command=("envoy", "-c", "x"), running=running)


def test_a_record_is_read_as_it_was_written(tmp_path):
    record.write(tmp_path, written(me()))

    assert record.read(tmp_path) == written(me())
    assert record.read(tmp_path).current == me()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"running": 3}', '{"running": [], "command": []}', '{"x": 1}'])
def test_what_cannot_be_read_is_no_record(tmp_path, text):
    (tmp_path / record.RECORD).write_text(text)

    assert record.read(tmp_path) is None


def test_a_missing_record_is_none(tmp_path):
    assert record.read(tmp_path) is None


def test_alive_is_who_has_the_same_start_in_the_same_boot():
    assert record.alive(written(me())) == (me(),)
    assert record.alive(written(replace(me(), start=1))) == ()
    assert record.alive(replace(written(me()), boot="another")) == ()


def test_an_ended_process_has_no_start_even_before_it_is_reaped():
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)

    assert record.start_of(process.pid) is None
    process.wait()
    assert record.start_of(process.pid) is None


def test_one_launcher_a_directory(tmp_path):
    assert record.launcher_of(tmp_path) is None
    held = record.lock(tmp_path)

    assert record.lock(tmp_path) is None
    assert record.launcher_of(tmp_path) == os.getpid()
    os.close(held)
    assert record.launcher_of(tmp_path) is None
