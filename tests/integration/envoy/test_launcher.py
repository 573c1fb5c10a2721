"""Envoy under its launcher: hot restarts, crashes, adoption, stops. Nothing is left behind."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agent.envoy import record
from agent.envoy.process import EnvoyError
from tests.integration.envoy.rig import (
    Load,
    free_port,
    get,
    rig,
    serving,
)
from tests.support.waiting import aeventually

pytestmark = pytest.mark.real


def has_ended(pid):
    return record.start_of(pid) is None


def shared_memory(base_id):
    return Path(f"/dev/shm/envoy_shared_memory_{base_id * 10}")


def test_a_hot_restart_under_load_loses_nothing():
    async def run():
        async with serving() as (r, port, _):
            before = r.envoy.state()
            load = Load(port)
            async with load.running():
                await r.envoy.hot_restart()
                after = r.envoy.state()
                assert (after.pid, after.epoch) != (before.pid, before.epoch)
                assert (after.epoch, after.phase, after.restarts) == (before.epoch + 1, "live", 0)
                await aeventually(lambda: has_ended(before.pid), timeout=15, what="the old process ends")
            assert load.failures == []
            print(f"hot restart: {load.done} requests, 0 lost")

    asyncio.run(run())


def test_hot_restarts_one_after_another_do_not_wait_for_the_old_ones_to_end():
    async def run():
        async with serving() as (r, port, _):
            for epoch in (1, 2, 3):
                await r.envoy.hot_restart()
                assert r.envoy.state().epoch == epoch
                assert await get(port) == "200 one"

    asyncio.run(run())


def test_a_killed_envoy_is_back_at_once():
    async def run():
        async with serving() as (r, port, _):
            before = r.envoy.state()
            killed = time.perf_counter()
            os.kill(before.pid, signal.SIGKILL)
            await aeventually(lambda: answers(port), timeout=5)
            back = time.perf_counter() - killed
            after = r.envoy.state()
            assert after.pid != before.pid
            assert (after.restarts, after.epoch) == (1, 0)
            print(f"killed Envoy: serves again after {back * 1000:.0f} ms")
            await r.envoy.hot_restart()
            assert r.envoy.state().epoch == 1

    asyncio.run(run())


def test_a_killed_successor_of_a_hot_restart_leaves_a_line_that_can_restart():
    async def run():
        async with serving() as (r, port, _):
            await r.envoy.hot_restart()
            os.kill(r.envoy.state().pid, signal.SIGKILL)
            await aeventually(lambda: answers(port), timeout=5)
            await r.envoy.hot_restart()
            assert await get(port) == "200 one"

    asyncio.run(run())


async def answers(port):
    try:
        return (await get(port)).startswith("200")
    except (OSError, EOFError):
        return False


def test_a_restart_into_a_bad_bootstrap_keeps_the_old_process_and_heals():
    async def run():
        async with serving() as (r, port, _):
            bootstrap = r.directory / "run" / "bootstrap.json"
            good, before = bootstrap.read_bytes(), r.envoy.state()
            bootstrap.write_bytes(b'{"node": 3}')
            with pytest.raises(EnvoyError, match="not live after 1 s"):
                await r.envoy.hot_restart(timeout=1)
            state = r.envoy.state()
            assert state.pid == before.pid
            assert state.refused_restarts > 0
            assert await get(port) == "200 one"
            bootstrap.write_bytes(good)
            await aeventually(lambda: r.envoy.state().pid not in {0, before.pid}, timeout=15)
            await aeventually(lambda: r.envoy.state().phase == "live", timeout=15)
            assert r.envoy.state().epoch == 1
            assert await get(port) == "200 one"
            assert await r.envoy.warming() == 0

    asyncio.run(run())


def test_a_killed_launcher_leaves_envoy_serving_and_the_next_one_adopts_it():
    async def run():
        async with serving() as (r, port, _):
            before = r.envoy.state()
            os.kill(before.launcher, signal.SIGKILL)
            await aeventually(lambda: r.envoy.state().phase == "orphaned")
            assert await get(port) == "200 one"
            assert await r.envoy.ensure() == "adopted"
            after = r.envoy.state()
            assert (after.pid, after.epoch) == (before.pid, before.epoch)
            assert after.launcher not in {0, before.launcher}
            # It is watched and restarted as before.
            await aeventually(lambda: r.envoy.state().phase == "live")
            await r.envoy.hot_restart()
            assert r.envoy.state().epoch == 1
            os.kill(r.envoy.state().pid, signal.SIGKILL)
            await aeventually(lambda: answers(port), timeout=5)
            assert r.envoy.state().restarts == 1

    asyncio.run(run())


def test_what_died_while_no_launcher_watched_is_started_anew():
    async def run():
        async with serving() as (r, port, _):
            before = r.envoy.state()
            os.kill(before.launcher, signal.SIGKILL)
            await aeventually(lambda: r.envoy.state().launcher == 0)
            os.kill(before.pid, signal.SIGKILL)
            await aeventually(lambda: r.envoy.state().phase == "down")
            assert await r.envoy.ensure() == "started"
            await aeventually(lambda: answers(port), timeout=5)

    asyncio.run(run())


def test_one_launcher_a_directory():
    async def run():
        async with serving() as (r, _, _):
            before = r.envoy.state()
            assert await r.envoy.ensure() == "running"
            run_dir, admin = r.directory / "run", r.directory / "run" / "admin.sock"
            arguments = ["--run-dir", run_dir, "--admin", admin, "--", "false"]
            for more in ([], ["--detach"]):
                command = [sys.executable, "-m", "agent.envoy.launcher", *more, *arguments]
                second = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
                assert second.returncode == os.EX_TEMPFAIL
                assert "runs in" in second.stderr
            assert r.envoy.state() == before

    asyncio.run(run())


def test_other_settings_replace_the_launcher_and_not_envoy():
    async def run():
        async with serving() as (r, port, _):
            before = r.envoy.state()
            r.envoy._settings = type(r.envoy._settings)(**{**vars(r.envoy._settings), "log_level": "error"})
            assert await r.envoy.ensure() == "replaced"
            after = r.envoy.state()
            assert after.pid == before.pid
            assert after.launcher != before.launcher
            assert await get(port) == "200 one"
            assert await r.envoy.ensure() == "running"

    asyncio.run(run())


def test_a_stop_drains_and_leaves_nothing_behind():
    async def run():
        async with serving() as (r, port, _):
            await r.envoy.hot_restart()
            pids, base_id = r.envoy.state().pids, record.read(r.directory / "run").base_id
            assert shared_memory(base_id).exists()
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
            await r.envoy.stop()
            writer.close()
            assert all(has_ended(pid) for pid in pids)
            assert r.envoy.state().phase == "down"
            assert not shared_memory(base_id).exists()
            assert not (r.directory / "run" / "admin.sock").exists()
            await r.envoy.stop()  # may be repeated
            assert await r.envoy.ensure() == "started"
            await aeventually(lambda: answers(port), timeout=10)

    asyncio.run(run())


def test_a_stop_waits_for_a_connection_that_was_made_a_moment_ago():
    """Envoy's own sum of connections is of some seconds ago: that was nought, and a request under way was cut."""

    async def run():
        async with serving() as (r, port, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n")
            stopping = asyncio.create_task(r.envoy.stop())
            await aeventually(lambda: r.envoy.state().phase == "draining")
            await asyncio.sleep(0.5)  # the launcher looks ten times a second
            writer.write(b"\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            writer.close()
            await stopping

    asyncio.run(run())


def test_what_lives_without_a_launcher_is_stopped_too():
    async def run():
        async with serving() as (r, _, _):
            before = r.envoy.state()
            os.kill(before.launcher, signal.SIGKILL)
            await aeventually(lambda: r.envoy.state().launcher == 0)
            await r.envoy.stop(drain=False)
            assert has_ended(before.pid)

    asyncio.run(run())


def test_envoy_outlives_the_server_that_configured_it_and_its_process_group():
    """The launcher and Envoy are in sessions of their own, and nobody's children."""

    async def run():
        async with serving() as (r, _, _):
            state = r.envoy.state()
            assert os.getsid(state.launcher) == state.launcher
            assert os.getsid(state.pid) == state.pid
            parents = {
                int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
                for pid in (state.launcher, state.pid)
            }
            assert os.getpid() not in parents
            assert state.launcher not in parents

    asyncio.run(run())


def test_an_envoy_that_cannot_start_is_tried_with_longer_pauses_and_can_be_stopped():
    async def run():
        async with rig(command="/bin/false") as r:
            await r.envoy.ensure()
            await aeventually(lambda: record.read(r.directory / "run").restarts >= 3)
            assert r.envoy.state().pid == 0
            await r.envoy.stop()
            assert r.envoy.state().launcher == 0

    asyncio.run(run())


def test_a_command_that_does_not_exist_is_a_clear_error():
    async def run():
        async with rig(command="no-such-envoy") as r:
            with pytest.raises(EnvoyError, match="no-such-envoy is not on PATH"):
                await r.envoy.ensure()

    asyncio.run(run())


def test_an_explicit_base_id_survives_crash_and_restart():
    async def run():
        base_id = free_port()
        async with serving(base_id=base_id) as (r, port, _):
            await r.envoy.hot_restart()
            os.kill(r.envoy.state().pid, signal.SIGKILL)
            await aeventually(lambda: answers(port), timeout=5)
            await r.envoy.hot_restart()
            assert record.read(r.directory / "run").base_id == base_id
        assert not shared_memory(base_id).exists()

    asyncio.run(run())
