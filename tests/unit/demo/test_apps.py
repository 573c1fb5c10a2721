"""The demo's services."""

import asyncio

import pytest
from aiohttp.test_utils import TestClient, TestServer

from controlplane.demo.apps import Place, api_app, ask, place, seen_identity, web_app

HEADER = 'By=spiffe://d/ns/shop/sa/api;Hash=ab12;Subject="";URI=spiffe://d/ns/shop/sa/web'


def test_the_caller_is_read_from_the_last_element_of_the_header():
    assert seen_identity(HEADER) == {"caller": "spiffe://d/ns/shop/sa/web", "certificate": "ab12"}
    assert seen_identity("URI=spiffe://forged/x," + HEADER)["caller"] == "spiffe://d/ns/shop/sa/web"
    assert seen_identity("") == {"caller": "", "certificate": ""}


def test_place():
    assert place("127.0.0.12:8080") == Place("127.0.0.12", 8080)
    with pytest.raises(ValueError):
        place("nowhere")


def test_api_says_who_called_and_its_health_can_be_switched_from_its_own_host_only():
    async def go() -> None:
        async with TestClient(TestServer(api_app("api-1"))) as client:
            answer = await (await client.get("/x", headers={"x-forwarded-client-cert": HEADER})).json()
            assert answer["instance"] == "api-1"
            assert answer["caller"] == "spiffe://d/ns/shop/sa/web"
            through_mesh = await client.post("/control/health?ok=false", headers={"x-forwarded-client-cert": HEADER})
            assert through_mesh.status == 403
            assert (await client.get("/healthz")).status == 200
            await client.post("/control/health?ok=false")
            assert (await client.get("/healthz")).status == 503
            await client.post("/control/health?ok=true")
            assert (await client.get("/healthz")).status == 200

    asyncio.run(go())


def test_web_passes_on_what_api_and_db_say_and_tells_when_they_are_away():
    async def go() -> None:
        async def line(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"db-1: " + await reader.readline())
            writer.close()

        db = await asyncio.start_server(line, "127.0.0.1", 0)
        db_place = Place("127.0.0.1", db.sockets[0].getsockname()[1])
        async with TestServer(api_app("api-1"), host="127.0.0.1") as api:
            app = web_app("web-1", Place("127.0.0.1", api.port), db_place)
            async with TestClient(TestServer(app)) as client:
                assert (await (await client.get("/api/hello")).json())["api"]["instance"] == "api-1"
                assert (await (await client.get("/db?line=hi")).json())["db"] == "db-1: hi"
                await api.close()
                db.close()
                assert (await client.get("/api/hello")).status == 502
                assert (await client.get("/db")).status == 502

    asyncio.run(go())


def test_a_db_that_closes_without_an_answer_is_an_error():
    async def go() -> None:
        async with await asyncio.start_server(lambda _r, w: w.close(), "127.0.0.1", 0) as server:
            with pytest.raises((EOFError, OSError)):
                await ask(Place("127.0.0.1", server.sockets[0].getsockname()[1]), "hi")

    asyncio.run(go())
