"""The launcher's hands, as far as they need no Envoy."""

import struct

import pytest

from agent.envoy import host
from agent.envoy.host import Host, Options


@pytest.fixture
def options(tmp_path):
    log = tmp_path / "envoy.log"
    return Options(
        run_dir=tmp_path,
        admin=tmp_path / "admin.sock",
        base_id=11,
        log_file=log,
        log_max_bytes=100,
        logs=(log, tmp_path / "access.log"),
        drain_seconds=2,
        parent_shutdown_seconds=4,
        command=("envoy",),
    )


def test_a_log_over_its_size_is_moved_aside_and_its_writers_go_on(options):
    with options.log_file.open("ab", buffering=0) as writer:
        writer.write(b"x" * 100)
        Host(options).rotate_logs()
        assert not options.log_file.with_name("envoy.log.1").exists()
        writer.write(b"y")
        Host(options).rotate_logs()
        writer.write(b"after")

    assert options.log_file.with_name("envoy.log.1").read_bytes() == b"x" * 100 + b"y"
    assert options.log_file.read_bytes() == b"after"


def test_the_busy_mark_of_a_line_is_cleared_and_nothing_else(options, tmp_path, monkeypatch):
    monkeypatch.setattr(host, "SHM", tmp_path)
    memory = tmp_path / "envoy_shared_memory_110"
    body = struct.pack("=QQ", 104, 11) + b"m" * 80
    memory.write_bytes(body + struct.pack("=Q", 1))

    Host(options).clear_initializing()

    assert memory.read_bytes() == body + bytes(8)


def test_a_memory_of_another_shape_is_left_alone(options, tmp_path, monkeypatch):
    monkeypatch.setattr(host, "SHM", tmp_path)
    memory = tmp_path / "envoy_shared_memory_110"
    memory.write_bytes(struct.pack("=QQ", 999, 11) + b"m" * 88)
    before = memory.read_bytes()

    Host(options).clear_initializing()

    assert memory.read_bytes() == before


def test_without_an_admin_socket_nothing_is_known(options):
    assert not Host(options).is_live(0)
    assert not Host(options).is_idle()


@pytest.mark.parametrize(
    ("raw", "body"), [(b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", b"abcde"), (b"0\r\n\r\n", b""), (b"", b"")]
)
def test_chunks_are_put_together(raw, body):
    assert host._dechunk(raw) == body
