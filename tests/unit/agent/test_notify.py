"""What a service manager hears; and that nothing is said where there is none."""

import os
import socket

from agent import notify


def test_words_reach_a_manager_that_listens(tmp_path, monkeypatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "n"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "n"))
        notify.tell("READY=1", "STATUS=up")
        manager.settimeout(5)
        assert manager.recv(100) == b"READY=1\nSTATUS=up"


def test_an_abstract_name_is_taken_too(monkeypatch):
    name = f"holdfast-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name)
        notify.tell("WATCHDOG=1")
        manager.settimeout(5)
        assert manager.recv(100) == b"WATCHDOG=1"


def test_no_manager_and_a_manager_that_is_gone_are_both_fine(tmp_path, monkeypatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify.tell("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    notify.tell("READY=1")


def test_the_watchdog_counts_only_for_the_process_it_was_set_for(monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    assert notify.watchdog_seconds() == 30
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert notify.watchdog_seconds() is None
    monkeypatch.delenv("WATCHDOG_PID")
    monkeypatch.setenv("WATCHDOG_USEC", "soon")
    assert notify.watchdog_seconds() is None
