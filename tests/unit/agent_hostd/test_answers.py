"""Whether agent and Envoy answer is asked by the one thread that keeps the host: nobody may hold it up."""

import os
import socket
import threading
import time
from pathlib import Path

from agent.hostd import system


def test_who_answers_a_byte_at_a_time_is_given_up(tmp_path: Path):
    path = tmp_path / "agent.sock"
    enough = threading.Event()

    def drip(listener: socket.socket) -> None:
        link, _ = listener.accept()
        with link:
            while not enough.wait(0.2):
                try:
                    link.sendall(b"x")
                except OSError:
                    return

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=drip, args=(listener,))
        thread.start()
        guard = threading.Timer(10, enough.set)  # else a helper that waits would wait for good
        guard.start()
        try:
            began = time.monotonic()
            assert not system.answers(path, b"ping\n", b"LIVE")
            assert time.monotonic() - began < 5
        finally:
            enough.set()
            guard.cancel()
            thread.join()


def test_the_door_has_its_name_once_it_is_answered_at(tmp_path: Path):
    path = tmp_path / "run" / "host.sock"
    for _ in range(2):  # the second finds what a helper that was killed has left
        with system.listen(path, os.getgid()), socket.socket(socket.AF_UNIX) as link:
            link.connect(str(path))
        assert path.stat().st_mode & 0o777 == 0o660
        assert list(path.parent.iterdir()) == [path]
