"""Which member of OpenBao leads, as plays ask it: members here are small servers that answer as OpenBao does."""

import http.server
import json
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from controlplane.demo.bao import _make_tls
from tests.support.collection import ROOT

SCRIPT = ROOT / "ansible/roles/common/files/openbao_leader.py"
CODES = {"leads": 200, "standby": 211, "sealed": 212, "empty": 213}


class Members:
    """Each says what `states` has for it, which may change."""

    def __init__(self, folder: Path) -> None:
        self.states: list[str] = []
        self.urls: list[str] = []
        self._servers: list[http.server.ThreadingHTTPServer] = []
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(*_make_tls(folder, "127.0.0.1"))
        self._ca = folder / "ca.pem"

    def add(self, state: str) -> None:
        number, members = len(self.states), self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked = dict(pair.split("=") for pair in self.path.partition("?")[2].split("&"))
                names = {"standby": "standbycode", "sealed": "sealedcode", "empty": "uninitcode"}
                said = members.states[number]
                self.send_response(int(asked[names[said]]) if said in names else 200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.socket = self._tls.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}).start()
        self._servers.append(server)
        self.states.append(state)
        self.urls.append(f"https://127.0.0.1:{server.server_port}")

    def ask(self, seconds: float) -> tuple[str, list[str]]:
        """Number of the one that leads, or nothing; and how each is."""
        command = [sys.executable, str(SCRIPT), str(self._ca), str(seconds), *self.urls]
        found = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=60).stdout)
        leader = str(self.urls.index(found["leader"])) if found["leader"] else ""
        return leader, [found["members"][url] for url in self.urls]

    def close(self) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()


@pytest.fixture
def members(tmp_path: Path) -> Iterator[Members]:
    made = Members(tmp_path)
    try:
        yield made
    finally:
        made.close()


def test_the_one_that_leads_is_found_whatever_the_others_are(members: Members):
    for state in ("sealed", "leads", "empty"):
        members.add(state)
    assert members.ask(0) == ("1", ["sealed", "leads", "empty"])
    members.urls.append("https://127.0.0.1:1")
    leader, states = members.ask(0)
    assert leader == "1"
    assert "refused" in states[3]


def test_a_leader_is_waited_for_where_there_can_be_one(members: Members):
    for state in ("standby", "standby", "sealed"):
        members.add(state)
    elected = threading.Timer(1, lambda: members.states.__setitem__(1, "leads"))
    elected.start()
    assert members.ask(50)[0] == "1"
    elected.join()


@pytest.mark.parametrize("states", [("standby", "sealed", "sealed"), ("sealed",), ("empty", "empty", "empty")])
def test_nobody_is_waited_for_where_too_few_members_are_open(members: Members, states: tuple[str, ...]):
    for state in states:
        members.add(state)
    started = time.monotonic()
    assert members.ask(50) == ("", list(states))
    assert time.monotonic() - started < 40


def test_of_two_that_say_they_lead_one_has_not_heard_yet(members: Members):
    for state in ("leads", "leads", "standby"):
        members.add(state)
    heard = threading.Timer(1, lambda: members.states.__setitem__(0, "standby"))
    heard.start()
    assert members.ask(50)[0] == "1"
    heard.join()
