"""Private keys reach libraries and Envoy without a file in any file system."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from agent import memfile
from agent.identity.orders import SignOrder
from tests.support.meshes import TestCa
from tests.support.waiting import eventually

WATCHED = """
import os, sys
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
written = []
sys.addaudithook(lambda event, args: event == "open" and args[2] & WRITES and written.append(str(args[0])))
"""
"""A process that knows each file that it opens for writing; descriptors have names of digits only."""

TOLD = """
print([name for name in written if not name.isdigit() and not name.startswith("/dev/null")])
"""


def told(code: str, **given: object) -> str:
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", WATCHED + code + TOLD]
    done = subprocess.run(
        command, input=msgspec.json.encode(given), capture_output=True, env=environment, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


def test_the_watching_sees_a_file():
    assert "x.pem" in told("import tempfile; open(tempfile.mkdtemp() + '/x.pem', 'w').close()")


def test_a_tls_context_is_made_without_a_file():
    ca = TestCa()
    code = """
import msgspec
from agent import tls
from mesh.model import Identity
given = msgspec.json.decode(sys.stdin.buffer.read())
made = tls.context(given["roots"], msgspec.convert(given["own"], Identity))
assert made.get_ca_certs()
"""
    assert told(code, roots=[ca.root], own=ca.identity("/node/vm-1")) == "[]"


def test_an_exchange_with_the_ca_shows_its_certificate_without_a_file():
    """Nobody answers: by then the certificate is loaded."""
    ca = TestCa()
    code = """
import asyncio, msgspec
from agent.identity import exchange
from agent.identity.orders import Order
outcome = asyncio.run(exchange.run(msgspec.json.decode(sys.stdin.buffer.read(), type=Order)))
assert "127.0.0.1:1" in outcome.error, outcome
"""
    own = ca.identity("/node/vm-1")
    sign = SignOrder(
        urls=("https://127.0.0.1:1",),
        roots=(ca.root,),
        trust_domain="east.test",
        node="vm-1",
        own=own,
        wanted=("shop/api",),
    )
    assert told(code, sign=sign, now=0.0) == "[]"


@pytest.fixture
def slow_envoy(tmp_path: Path) -> Iterator[Path]:
    """Reads what it is given, says so, and does not end by itself."""
    script = tmp_path / "envoy"
    script.write_text(f'#!/bin/sh\nwc -c < "$4" > {tmp_path}/n && echo $$ > {tmp_path}/pid\nexec sleep 60\n')
    script.chmod(0o755)
    yield script
    if (pid := tmp_path / "pid").exists():
        with suppress(ProcessLookupError):
            os.kill(int(pid.read_text()), signal.SIGKILL)


def test_nothing_is_left_of_a_trial_whose_agent_is_killed(tmp_path: Path, slow_envoy: Path):
    code = """
import asyncio, sys
from pathlib import Path
from agent.envoy.bootstrap import BootstrapSettings
from agent.envoy.trial import Trial
from mesh.compile import compile, project
from mesh.model import Service
from tests.support.meshes import TestCa, definition, local, service, world
from mesh.model import LocalPort
ca = TestCa()
api = definition("api", LocalPort(port=8080, name="http"))
host = local(api, identities={"shop/api": ca.workload("shop/api")}, bundle_roots=(ca.root,))
snapshot = compile(project(world(service("api", target="http")), host))
settings = BootstrapSettings(node="n", cluster="c", xds_socket="/x", admin_socket="/y")
asyncio.run(Trial(sys.argv[1], Path(sys.argv[2]), settings).run(snapshot))
"""
    run_dir = tmp_path / "run"
    with subprocess.Popen([sys.executable, "-c", code, str(slow_envoy), str(run_dir)]) as agent:
        eventually(lambda: (tmp_path / "pid").exists(), timeout=30, what="envoy has read")
        agent.kill()
    assert int((tmp_path / "n").read_text()) > 2000
    left = [path for path in run_dir.rglob("*") if path.is_file() and not path.is_symlink()]
    assert left == []


def test_content_is_read_from_its_beginning_and_goes_with_the_block():
    content = json.dumps({"key": "x" * 100_000}).encode()
    with memfile.named(content) as name:
        assert Path(name).read_bytes() == content == Path(name).read_bytes()
    with memfile.opened(content) as descriptor:
        assert os.read(descriptor, 10) == content[:10]
        assert not os.get_inheritable(descriptor)
    assert not Path(name).exists() or Path(name).read_bytes() != content
