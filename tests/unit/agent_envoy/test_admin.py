"""The admin socket's few lines of HTTP, against a server that says what Envoy says."""

import asyncio
from contextlib import asynccontextmanager, suppress

import pytest

from agent.envoy.admin import Admin, AdminError, ServerInfo

INFO = (
    '{"version": "abc/1.40.0/Clean/RELEASE/BoringSSL", "state": "LIVE", "uptime_current_epoch": "12s",'
    ' "command_line_options": {"restart_epoch": 2}}'
)


@asynccontextmanager
async def serving(path, answer, *, hang=False):
    asked, writers = [], []

    async def on_connect(reader, writer):
        asked.append((await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[0])
        writer.write(answer)
        await writer.drain()
        writers.append(writer)
        if not hang:
            writer.close()

    server = await asyncio.start_unix_server(on_connect, path)
    try:
        yield asked
    finally:
        server.close()
        for writer in writers:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


def plain(body, status="200 OK"):
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode()


def chunked(*chunks):
    body = "".join(f"{len(c):x}\r\n{c}\r\n" for c in chunks)
    return f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}0\r\n\r\n".encode()


def ask(tmp_path, answer, call, **more):
    async def run():
        async with serving(tmp_path / "admin.sock", answer, **more) as asked:
            return await call(Admin(tmp_path / "admin.sock", timeout=0.5 if more else 10)), asked

    return asyncio.run(run())


def test_server_info_is_read_from_chunks(tmp_path):
    got, asked = ask(tmp_path, chunked(INFO[:20], INFO[20:]), lambda a: a.server_info())

    assert got == ServerInfo("LIVE", "1.40.0", 2, 12.0)
    assert asked == ["GET /server_info HTTP/1.1"]


def test_stats_are_numbers_by_name_and_histograms_are_skipped(tmp_path):
    text = "cluster.a|1.upstream_cx_total: 3\nserver.live: 1\nhttp.x.time: P0(nan,1.0) P25(nan,1.1)\n"

    got, asked = ask(tmp_path, plain(text), lambda a: a.stats("^(a|b)$"))

    assert got == {"cluster.a|1.upstream_cx_total": 3, "server.live": 1}
    assert asked == ["GET /stats?filter=%5E%28a%7Cb%29%24 HTTP/1.1"]


def test_warming_is_the_sum_of_clusters_and_listeners(tmp_path):
    text = "cluster_manager.warming_clusters: 2\nlistener_manager.total_listeners_warming: 1\n"

    assert ask(tmp_path, plain(text), lambda a: a.warming())[0] == 3


def test_what_envoy_does_not_tell_is_not_zero(tmp_path):
    with pytest.raises(AdminError, match="does not tell"):
        ask(tmp_path, plain("cluster_manager.warming_clusters: 2\n"), lambda a: a.warming())


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (plain("no such thing", "404 Not Found"), "404 no such thing"),
        (b"", "0 bytes"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\nshort", "5 bytes"),
        (b"garbage\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", "invalid literal"),
        (plain("not json"), "cannot be read"),
        (plain("{}"), "cannot be read"),
        (plain("[]"), "cannot be read"),
    ],
)
def test_bad_answers_are_one_kind_of_error(tmp_path, answer, words):
    with pytest.raises(AdminError, match=words):
        ask(tmp_path, answer, lambda a: a.server_info())


def test_no_answer_is_an_error_in_time(tmp_path):
    with pytest.raises(AdminError, match="no answer"):
        ask(tmp_path, b"HTTP/1.1 200 OK\r\n", lambda a: a.stats(), hang=True)


def test_no_socket_is_an_error(tmp_path):
    with pytest.raises(AdminError, match="No such file"):
        asyncio.run(Admin(tmp_path / "none.sock").stats())
