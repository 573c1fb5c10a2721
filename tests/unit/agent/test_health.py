import asyncio

import grpc
import grpc.aio
import pytest

from agent.checks import probe
from agent.health import Monitor, Tally, observe
from mesh.model import HealthCheck, LocalPort, ServiceDefinition
from tests.fakes.tcp import listening
from tests.support.waiting import aeventually


def defined(port: int, **check) -> ServiceDefinition:
    return ServiceDefinition(
        name="api",
        namespace="shop",
        ports=(LocalPort(port=1, name="first"), LocalPort(port=port, name="main")),
        health=HealthCheck(port=port, interval_seconds=0.05, timeout_seconds=0.3, **check),
    )


def http(answer: bytes):
    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    return serve


def check(serve, **kind) -> str:
    async def scenario():
        async with listening(serve) as port:
            definition = defined(port, **kind)
            return await probe(definition, definition.health)

    return asyncio.run(scenario())


async def silent(reader, writer):
    await reader.read()
    writer.close()


def test_thresholds_count_answers_in_a_row():
    rules = HealthCheck(healthy_threshold=2, unhealthy_threshold=3)
    tally = Tally()
    for failure, expected in [
        ("", "unhealthy"), ("x", "unhealthy"), ("", "unhealthy"), ("", "healthy"),
        ("x", "healthy"), ("x", "healthy"), ("", "healthy"), ("x", "healthy"), ("x", "healthy"), ("x", "unhealthy"),
    ]:  # fmt: skip
        tally = observe(tally, rules, failure)
        assert tally.health == expected


def test_tcp():
    assert check(silent, type="tcp") == ""
    closed = defined(1, type="tcp")
    assert asyncio.run(probe(closed, closed.health))


@pytest.mark.parametrize(
    ("answer", "good"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", True),
        (b"HTTP/1.0 204 No Content\r\n\r\n", True),
        (b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\n\r\n", False),
        (b"HTTP/1.1 503 No\r\n\r\n", False),
        (b"220 smtp ready\r\n\r\n", False),
        (b"\xff\xff", False),
        (b"", False),
        (b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 20000, False),
    ],
)
def test_http_takes_2xx_and_follows_nothing(answer, good):
    assert (check(http(answer), type="http") == "") is good


@pytest.mark.parametrize("kind", ["http", "grpc"])
def test_silence_ends_at_the_timeout(kind):
    assert check(silent, type=kind)


def test_a_port_that_is_not_defined_is_a_reason():
    rules = HealthCheck(port="nowhere")
    definition = ServiceDefinition(name="api", ports=(LocalPort(port=1),))
    assert "nowhere" in asyncio.run(probe(definition, rules))


@pytest.mark.parametrize(("answer", "good"), [(b"\x08\x01", True), (b"\x08\x02", False), (b"", False)])
def test_grpc_asks_the_health_service(answer, good):
    async def scenario():
        server = grpc.aio.server()
        method = grpc.unary_unary_rpc_method_handler(lambda request, context: answer)
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": method}),)
        )
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            definition = defined(port, type="grpc")
            return await probe(definition, definition.health)
        finally:
            await server.stop(None)

    assert (asyncio.run(scenario()) == "") is good


def test_the_monitor_tells_of_transitions_and_restarts_only_what_changed():
    async def scenario():
        failures = {"api": "down", "web": ""}
        asked: list[str] = []
        changes: list[int] = []

        async def ask(definition, rules):
            asked.append(definition.name)
            return failures[definition.name]

        api, web = defined(80), ServiceDefinition(name="web", namespace="shop")
        async with asyncio.TaskGroup() as group:
            monitor = Monitor(group, lambda: changes.append(1), ask=ask)
            monitor.update([api, web])
            assert monitor.health(api) == "unhealthy", "nobody is sent to what has not answered yet"
            assert monitor.health(web) == "healthy", "nothing to ask"
            await aeventually(lambda: len(asked) > 2)
            assert changes == []
            failures["api"] = ""
            await aeventually(lambda: monitor.health(api) == "healthy")
            assert len(changes) == 1
            before = monitor._running["shop", "api"][1]
            monitor.update([api])
            assert monitor._running["shop", "api"][1] is before
            assert ("shop", "web") not in monitor.tallies
            monitor.update([defined(81)])
            assert monitor._running["shop", "api"][1] is not before
            assert monitor.health(api) == "healthy", "a changed definition begins where it was"
            monitor.update([])

    asyncio.run(scenario())
