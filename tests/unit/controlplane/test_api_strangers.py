"""Callers without credentials cost a bounded number of store reads and audit lines, and take nothing from others."""

import asyncio
import json
import logging
from collections import Counter

import pytest

from ca import keys as ca_keys
from controlplane.auth import new_token, operator_key
from mesh import codec, keys
from mesh.model import Revision
from mesh.store.memory import MemoryStore
from mesh.store.protocol import Event, Put
from tests.support.waiting import aeventually
from tests.unit.controlplane.harness import SERVER_NAME, mesh

GUESS = "hfo1." + "x" * 43
JOIN_GUESS = f"hf1.{'0' * 16}.{'A' * 43}.{'0' * 32}"


class Counting(MemoryStore):
    """Counts reads of single keys."""

    def __init__(self) -> None:
        super().__init__()
        self.read = Counter()

    async def get(self, key, *, at=None):
        self.read[key] += 1
        return await super().get(key, at=at)


def lines(cp):
    return [json.loads(line) for line in cp.audit_text().splitlines()]


async def flood(cp, count, method="GET", path="/v1/kinds", tls=None, **more):
    """Statuses of so many calls, on connections that are kept."""
    found = []
    async with cp.session(tls) as session:
        for _ in range(count):
            async with session.request(method, cp.url + path, server_hostname=SERVER_NAME, **more) as response:
                found.append(response.status)
    return found


def test_unknown_tokens_cost_few_reads_and_hold_up_no_operator(tmp_path):
    async def run():
        store = Counting()
        async with mesh(tmp_path, store) as cp:
            found = await flood(cp, 200, headers={"Authorization": f"Bearer {GUESS}"})
            assert set(found) == {401, 429}
            assert store.read[operator_key(GUESS)] <= 60
            assert (await cp.call("GET", "/v1/kinds"))[0] == 200
            async with cp.request("GET", "/v1/kinds", token=GUESS) as response:
                assert (response.status, int(response.headers["Retry-After"]) >= 1) == (429, True)

    asyncio.run(run())


def test_a_token_that_the_mirror_has_not_seen_yet_is_looked_up(tmp_path):
    """It was made a moment ago at another replica."""

    async def run():
        async with mesh(tmp_path) as cp:
            text, key, record = new_token("eve", "viewer", cp.context.wall(), 60.0)
            await cp.store.txn((), (Put(key, codec.encode_struct(record)),))
            cp.context.mirror.view.apply([Event(key, None, Revision(0))], Revision(0))
            assert (await cp.call("GET", "/v1/kinds", token=text))[0] == 200

    asyncio.run(run())


def test_a_token_that_has_expired_is_looked_up_as_seldom_as_an_unknown_one(tmp_path):
    async def run():
        store = Counting()
        async with mesh(tmp_path, store) as cp:
            token = await cp.operator("admin", ttl=60.0, now=cp.context.wall() - 100)
            assert set(await flood(cp, 200, headers={"Authorization": f"Bearer {token}"})) == {401, 429}
            assert store.read[operator_key(token)] <= 60

    asyncio.run(run())


@pytest.mark.parametrize("path", ["/healthz", "/v1/roots"])
def test_where_nobody_is_asked_a_token_is_not_looked_up(tmp_path, path):
    async def run():
        store = Counting()
        async with mesh(tmp_path, store) as cp:
            assert set(await flood(cp, 20, path=path, headers={"Authorization": f"Bearer {GUESS}"})) == {200}
            assert not store.read[operator_key(GUESS)]

    asyncio.run(run())


def test_guessed_join_tokens_cost_few_reads_and_a_host_with_a_token_still_joins(tmp_path):
    async def run():
        store = Counting()
        async with mesh(tmp_path, store) as cp:
            _, made = await cp.call("POST", "/v1/tokens", {"node": "n1"})
            await aeventually(lambda: cp.context.mirror.view.knows_token(keys.TOKENS + made["id"], 0.0))
            body = {"token": JOIN_GUESS, "node": "n1", "address": "10.0.0.1", "csr": ca_keys.new_csr(ca_keys.new_key())}
            assert set(await flood(cp, 200, "POST", "/v1/join", json=body)) == {403, 429}
            assert store.read[keys.TOKENS + "0" * 16] <= 60
            assert 1 <= sum(line["event"] == "ca.join" for line in lines(cp)) <= 60
            body["token"] = made["token"]

            async def joins():
                # The address is closed for a second or so after that many failures.
                return (await cp.call("POST", "/v1/join", body, token=None))[0] == 200

            await aeventually(joins)
            (told,) = [line for line in lines(cp) if line.get("path") == "/v1/join" and line["status"] == 200]
            assert told["node"] == "n1"

    asyncio.run(run())


def test_a_flood_of_strangers_is_counted_and_callers_who_are_known_keep_their_lines(tmp_path):
    async def run():
        async with mesh(tmp_path) as cp:
            viewer = await cp.operator("viewer")
            assert set(await flood(cp, 300)) == {401}
            assert set(await flood(cp, 300, path="/v1/nowhere")) == {404}
            for _ in range(60):
                assert (await cp.call("GET", "/v1/kinds"))[0] == 200
                assert (await cp.call("POST", "/v1/apply", {}, token=viewer))[0] == 403
            cp.context.audit.tell_left_out()
            told = lines(cp)
            strangers = [line for line in told if line.get("caller") == "anonymous:anonymous"]
            assert 20 <= len(strangers) <= 100
            (left,) = [line for line in told if line["event"] == "audit.left_out"]
            assert left["lines"] == 600 - len(strangers)
            assert left["most"] == {"127.0.0.1": left["lines"]}
            assert sum(line.get("caller") == "operator:admin" for line in told) == 60
            refused = [line for line in told if line.get("status") == 403]
            assert [line["caller"] for line in refused] == ["operator:some-viewer"] * 60

    asyncio.run(run())


@pytest.mark.parametrize("how", ["evicted", "deleted"])
def test_a_node_that_is_not_welcome_costs_as_little(tmp_path, how):
    async def run():
        store = Counting()
        async with mesh(tmp_path, store) as cp:
            if how == "evicted":
                await cp.add_node("n1", evicted=True)
            found = await flood(cp, 300, "POST", "/v1/register", cp.node_tls("n1"), json={})
            assert set(found) == ({403} if how == "evicted" else {403, 429})
            told = [line for line in lines(cp) if line.get("caller") == "node:n1"]
            assert 20 <= len(told) <= 100
            assert store.read[keys.join_of("n1")] <= 60

    asyncio.run(run())


POST = b"POST /v1/join HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize(
    "raw",
    [
        b"GARBAGE\r\n\r\n",
        b"\x00" * 100,
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: zz\r\n\r\n",
        b"GET / HTTP/1.1\r\nA: " + b"b" * 20_000 + b"\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n|zz\r\n",
        POST + b"Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\n|abc",
        POST + b"Content-Length: 30\r\n\r\nabc",
        b"GET /v1/uplink HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    ],
)
def test_what_is_no_http_leaves_no_trace_in_the_log_and_few_lines(tmp_path, caplog, raw):
    """`|`: what follows it is sent once the request is being handled."""
    first, _, rest = raw.partition(b"|")

    async def run():
        async with mesh(tmp_path) as cp:
            port, before = int(cp.url.rpartition(":")[2]), len(lines(cp))
            for _ in range(120):
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", port, ssl=cp.anonymous_tls(), server_hostname=SERVER_NAME
                )
                writer.write(first)
                await writer.drain()
                if rest:
                    await asyncio.sleep(0.02)
                    writer.write(rest)
                writer.close()
                del reader
            assert (await cp.call("GET", "/v1/kinds"))[0] == 200
            assert len(lines(cp)) - before <= 101

    with caplog.at_level(logging.INFO):
        asyncio.run(run())
    assert not [record for record in caplog.records if record.exc_info or record.levelno >= logging.ERROR]
