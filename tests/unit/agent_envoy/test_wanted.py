"""What one user's launcher is told by another user's agent: files, and words over a socket."""

import os
import socket
import threading
from contextlib import contextmanager

import pytest

from agent.envoy import requests, wanted
from agent.envoy.wanted import Wanted

SAID = Wanted(("-c", "/run/holdfast/envoy/bootstrap.json"), 30, 45, ("/var/log/holdfast/other.log",))


def test_what_is_written_is_what_is_read(tmp_path):
    path = wanted.write(tmp_path, SAID)
    assert wanted.read(tmp_path) == SAID
    before = path.stat().st_ino
    wanted.write(tmp_path, SAID)
    assert path.stat().st_ino == before, "the same again is not written"


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"arguments": "-c"}', '{"arguments": [1], "drain_seconds": 1}', "\x00" * 10,
     '{"arguments": ["a\\u0000b"], "drain_seconds": 1, "parent_shutdown_seconds": 2, "rotate": []}'],
)  # fmt: skip
def test_nothing_is_wanted_by_what_cannot_be_understood(tmp_path, text):
    (tmp_path / wanted.FILE).write_text(text)
    assert wanted.read(tmp_path) is None


def test_nothing_is_wanted_where_nothing_was_said(tmp_path):
    assert wanted.read(tmp_path) is None


@contextmanager
def door(folder, allowed):
    """A launcher's loop, as far as it is asked; yields the words it took."""
    taken: list[str] = []
    made = requests.Door(folder / requests.NAME, allowed)
    done = threading.Event()

    def serve():
        while not done.is_set():
            if word := made.take():
                taken.append(word)
            done.wait(0.005)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield taken
    finally:
        done.set()
        thread.join()
        made.close()


def test_a_word_is_taken_from_whom_may_ask(tmp_path):
    seen = []
    with door(tmp_path, lambda uid: not seen.append(uid)) as taken:
        requests.ask(tmp_path, "restart")
        assert (tmp_path / requests.NAME).stat().st_mode & 0o777 == 0o660
    assert taken == ["restart"]
    assert seen == [os.geteuid()]
    assert not (tmp_path / requests.NAME).exists()


def test_others_are_refused_and_told_who_they_are(tmp_path):
    refused = pytest.raises(requests.RequestError, match=f"user {os.geteuid()} may not ask")
    with door(tmp_path, lambda _: False) as taken, refused:
        requests.ask(tmp_path, "stop")
    assert taken == []


def test_a_word_that_nobody_knows_is_refused(tmp_path):
    with door(tmp_path, lambda _: True) as taken, pytest.raises(requests.RequestError, match="there are restart"):
        requests.ask(tmp_path, "dance")
    assert taken == []


def test_a_peer_that_leaves_or_says_nothing_does_no_harm(tmp_path, monkeypatch):
    monkeypatch.setattr(requests, "PATIENCE_SECONDS", 0.05)
    with door(tmp_path, lambda _: True) as taken:
        for text in (b"", b"\xff\xfe", b"x" * 10_000):
            with socket.socket(socket.AF_UNIX) as peer:
                peer.connect(str(tmp_path / requests.NAME))
                peer.sendall(text)
        monkeypatch.setattr(requests, "PATIENCE_SECONDS", 1.0)
        requests.ask(tmp_path, "renew")
    assert taken == ["renew"]


def test_without_a_launcher_the_reason_names_the_socket(tmp_path):
    with pytest.raises(requests.RequestError, match=requests.NAME):
        requests.ask(tmp_path, "restart")
