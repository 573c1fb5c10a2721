"""What an operator and Prometheus can ask of an agent, and what bad input gets."""

import asyncio
import fcntl
import json
import stat
from contextlib import asynccontextmanager

import pytest
import yaml
from click.testing import CliRunner

from agent import metrics, status
from agent.admin import MAX_LINE_BYTES, AdminError, AdminServer, ask
from agent.cli import main
from agent.http import Target, call
from agent.machine import State
from agent.saver import Saver
from agent.scrape import MAX_REQUEST_BYTES, ScrapeServer
from agent.state import Disk, StoredWorld
from mesh.model.uplink import Rejected
from tests.support.waiting import aeventually


@asynccontextmanager
async def serving(server):
    task = asyncio.create_task(server.run())
    try:
        async with asyncio.timeout(20):
            yield server
    finally:
        task.cancel()
        await asyncio.wait({task})


async def fine():
    return {"phase": "serving"}


async def broken():
    raise RuntimeError("no such thing today")


def test_the_socket_answers_commands_and_survives_bad_ones(tmp_path):
    path = tmp_path / "agent.sock"

    async def line(raw: bytes) -> bytes:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(raw)
        answer = await reader.readline()
        writer.close()
        await writer.wait_closed()
        return answer

    async def scenario():
        async with serving(AdminServer(path, {"status": fine, "broken": broken})):
            await aeventually(path.exists)
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert await ask(path, "status") == {"phase": "serving"}
            with pytest.raises(AdminError, match="there are broken, status"):
                await ask(path, "dance")
            with pytest.raises(AdminError, match="no such thing today"):
                await ask(path, "broken")
            for raw in (b"nonsense\n", b"{}\n", b"[]\n", b'{"do": 7}\n', b"\xff\xff\n"):
                assert b"error" in await line(raw)
            assert await line(b"x" * (MAX_LINE_BYTES * 2)) == b"", "a line without an end is not waited for"
            assert await ask(path, "status") == {"phase": "serving"}
        with pytest.raises(AdminError, match="holdfast-agent run"):
            await ask(path, "status")

    asyncio.run(scenario())


def test_the_scrape_port_serves_its_pages_and_nothing_else():
    async def page() -> str:
        return "up 1\n"

    async def scenario():
        async with serving(ScrapeServer("127.0.0.1:0", {"/metrics": page, "/broken": broken})) as server:
            await aeventually(lambda: server.port)
            target = Target(f"http://127.0.0.1:{server.port}")
            good = await call(target, "GET", "/metrics?x=y")
            assert (good.status, good.body) == (200, b"up 1\n")
            assert "version=0.0.4" in good.headers["content-type"]
            assert (await call(target, "GET", "/../etc/passwd")).status == 404
            assert (await call(target, "POST", "/metrics", body=b"x")).status == 405
            assert (await call(target, "GET", "/broken")).status == 500
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"GET /" + b"x" * MAX_REQUEST_BYTES * 2)
            assert await reader.read() == b""
            writer.close()
            assert (await call(target, "GET", "/metrics")).status == 200

    asyncio.run(scenario())


def test_metrics_are_one_group_each_with_labels_escaped():
    counters = metrics.Counters()
    counters.count(metrics.COMPILES, outcome="done")
    counters.count(metrics.COMPILES, amount=2, outcome='with "quotes"\n')
    text = metrics.page(counters.samples())
    assert text.count("# TYPE holdfast_agent_compiles_total counter") == 1
    assert 'outcome="with \\"quotes\\"\\n"} 2' in text


def facts(**more) -> status.Facts:
    return status.Facts(**{"state": State(identity=True), "node": "vm1", **more})


def test_a_report_says_what_is_and_is_bounded():
    report = status.report(facts(problems=tuple(f"p{n}" for n in range(500))))
    assert len(report.problems) == status.MAX_PROBLEMS + 1
    assert "400 more" in report.problems[-1]
    in_force = State(identity=True, world="live", applied_digest=b"x", applied=7, observed=9, envoy="live")
    assert status.report(facts(state=in_force)).applied == 7
    assert status.report(facts(state=State(identity=True, applied=7))).applied == 0, "nothing is in force"
    names = {metric.name for metric, _, _ in status.samples(facts(runways={"node": 5.0}))}
    assert "holdfast_agent_certificate_runway_seconds" in names


def test_the_saver_writes_once_for_many_requests_and_before_leaving(tmp_path):
    async def scenario():
        disk = Disk(tmp_path / "d")
        disk.worlds.load()
        gathered = []

        async def gather() -> StoredWorld:
            gathered.append(1)
            return StoredWorld(epoch=str(len(gathered)))

        saver = Saver(disk.worlds, gather, metrics.Counters())
        task = asyncio.create_task(saver.run())
        for _ in range(100):
            saver.request()
        await aeventually(lambda: gathered)
        saver.request()
        await aeventually(lambda: Disk(tmp_path / "d").worlds.load())
        assert len(gathered) == 1, "the next write comes later"
        await saver.flush()
        assert Disk(tmp_path / "d").worlds.load()[0].epoch == "2"
        task.cancel()
        await asyncio.wait({task})

    asyncio.run(scenario())


def test_a_disk_that_cannot_be_written_is_a_problem_and_no_end(tmp_path):
    class Full:
        def save(self, value) -> None:
            raise OSError(28, "No space left on device")

    async def scenario():
        async def gather() -> StoredWorld:
            return StoredWorld()

        saver = Saver(Full(), gather, metrics.Counters())
        saver.request()
        await saver.flush()
        assert "No space left" in saver.problem

    asyncio.run(scenario())


# --- the command ---


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "agent.yaml"
    path.write_text(
        yaml.safe_dump(
            {"node": "vm1", "address": "127.0.0.1", "runDir": str(tmp_path / "run"), "dataDir": str(tmp_path / "data")}
        )
    )
    return path


def invoke(*arguments: str):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_the_command_says_what_to_do_next(tmp_path, config):
    for arguments, hint in [
        (("status", "--config", tmp_path / "none.yaml"), "--config"),
        (("status", "--config", config), "holdfast-agent run"),
        (("join", "--config", config), "token create"),
        (("join", "--config", config, "--token-file", tmp_path / "none"), "cannot be read"),
        (("join", "--config", config, "--token", "hf1.a.b." + "0" * 32), "controlplanes"),
    ]:
        result = invoke(*arguments)
        assert result.exit_code == 1, result.output
        assert hint in result.output
        assert "Traceback" not in result.output
    assert "0." in invoke("--version").output


def test_status_is_for_people_and_programs(tmp_path, config):
    body = status.document(
        facts(
            runways={"node": 7200.0},
            rejected=(Rejected(object="Service shop/x", reason="no"),),
            problems=("a problem",),
            instances=(status.InstanceStatus("web.shop", "shop/web", "unhealthy", "refused", "no"),),
        )
    )

    async def told():
        return body

    async def scenario():
        (tmp_path / "run").mkdir()
        async with serving(AdminServer(tmp_path / "run" / "agent.sock", {"status": told})):
            await aeventually((tmp_path / "run" / "agent.sock").exists)
            text = await asyncio.to_thread(invoke, "status", "--config", config)
            raw = await asyncio.to_thread(invoke, "status", "--config", config, "-o", "json")
        assert text.exit_code == 0, text.output
        for word in (
            "vm1: syncing",
            "2.0 h left",
            "REJECTED Service shop/x",
            "PROBLEM a problem",
            "web.shop",
            "unhealthy",
        ):
            assert word in text.output
        assert json.loads(raw.output) == json.loads(json.dumps(body))

    asyncio.run(scenario())


def test_a_second_agent_on_the_same_directory_is_refused(tmp_path, config):
    (tmp_path / "run").mkdir()
    with (tmp_path / "run" / "agent.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = invoke("run", "--config", config)
    assert result.exit_code == 1
    assert "another agent runs" in result.output
