"""Control planes and gates that are known by a DNS name: what it leads to is left alone by capture."""

import asyncio
import itertools
import socket
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from agent import resolver
from agent.lifelines import KEEP_SECONDS, MAX_ADDRESSES, Known
from agent.resolver import Resolver
from tests.support.waiting import aeventually

CP = "cp.example.com"


def test_an_answer_is_kept_until_another_one_comes():
    known = Known().heard(CP, ("192.0.2.1", "2001:db8::1"), 100.0)
    assert known.addresses == ("192.0.2.1", "2001:db8::1")
    assert known.problems == ()
    away = known.failed(CP, "no answer within 5 s")
    assert away.addresses == known.addresses
    [said] = away.problems
    assert "cp.example.com, a control plane or gate, cannot be resolved" in said
    assert "192.0.2.1, 2001:db8::1, are still left alone (no answer within 5 s)" in said
    late = away.heard(CP, ("192.0.2.9",), 1e9)
    assert (late.addresses, late.problems) == (("192.0.2.9",), ())


def test_of_many_addresses_that_take_turns_none_is_captured_in_between():
    known = Known().heard(CP, ("192.0.2.1",), 100.0).heard(CP, ("192.0.2.2",), 130.0)
    assert known.addresses == ("192.0.2.1", "192.0.2.2")
    assert known.heard(CP, ("192.0.2.2",), 100.0 + KEEP_SECONDS).addresses == ("192.0.2.2",)


def test_a_name_that_never_had_an_answer_says_what_to_do():
    [said] = Known().failed(CP, "Name or service not known").problems
    assert "so connections to it are captured" in said
    assert "`capture.outbound.exempt` in agent.yaml (Name or service not known)" in said


def test_what_nobody_asks_for_is_forgotten():
    known = Known().heard(CP, ("192.0.2.1",), 1.0).failed("gate.example.com", "x").failed(CP, "y")
    assert known.only({"gate.example.com"}) == Known().failed("gate.example.com", "x")


def test_more_than_the_helper_takes_is_told():
    many = tuple(f"10.0.{n}.1" for n in range(MAX_ADDRESSES + 3))
    known = Known().heard("old.example.com", ("192.0.2.1",), 1.0).heard(CP, many, 2.0)
    assert len(known.addresses) == MAX_ADDRESSES
    assert "192.0.2.1" not in known.addresses, "what was heard last comes first"
    assert "4 addresses more" in known.problems[0]


# --- the shell ---


class Dns:
    """Answers as it is told; a lookup blocks while `open` is not set."""

    def __init__(self) -> None:
        self.answer: tuple[str, ...] | Exception = ("192.0.2.1",)
        self.open = threading.Event()
        self.open.set()
        self.asked = 0

    def __call__(self, name: str) -> tuple[str, ...]:
        self.asked += 1
        assert self.open.wait(20)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


Test = Callable[[Resolver, list[tuple[str, ...]]], Coroutine[Any, Any, None]]


def with_resolver(folder: Path, dns: Dns, test: Test, names: Callable[[], tuple[str, ...]] = lambda: (CP,)) -> None:
    async def main() -> None:
        told: list[tuple[str, ...]] = []
        mine = Resolver(folder, names, dns, lambda: 100.0, lambda: told.append(mine.known.addresses))
        await mine.load()
        running = asyncio.ensure_future(mine.run())
        try:
            await test(mine, told)
        finally:
            dns.open.set()
            running.cancel()

    asyncio.run(main())


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(resolver, "AGAIN_SECONDS", 0.02)
    monkeypatch.setattr(resolver, "DUE_SECONDS", 0.05)
    monkeypatch.setattr(resolver, "PATIENCE_SECONDS", 0.05)


def test_addresses_follow_their_name(tmp_path):
    dns = Dns()

    async def test(mine: Resolver, told: list[tuple[str, ...]]) -> None:
        await aeventually(lambda: told == [("192.0.2.1",)])
        dns.answer = ("192.0.2.1", "2001:db8::1")
        await aeventually(lambda: told[1:] == [("192.0.2.1", "2001:db8::1")])
        before = dns.asked
        await aeventually(lambda: dns.asked > before + 2)
        assert len(told) == 2, "the same answer is no news"

    with_resolver(tmp_path, dns, test)


@pytest.mark.parametrize(
    "fault", [socket.gaierror(-2, "Name or service not known"), UnicodeError("label too long"), OSError("odd")]
)
def test_a_name_without_an_answer_is_a_problem_until_it_has_one(tmp_path, fault):
    dns = Dns()
    dns.answer = fault

    async def test(mine: Resolver, told: list[tuple[str, ...]]) -> None:
        await aeventually(lambda: bool(mine.known.problems))
        assert "known" in mine.known.problems[0] or str(fault) in mine.known.problems[0]
        assert told == [()]
        dns.answer = ("192.0.2.1",)
        await aeventually(lambda: mine.known.problems == ())
        assert told == [(), ("192.0.2.1",)]

    with_resolver(tmp_path, dns, test)


def test_a_resolver_that_hangs_holds_nobody_up_and_is_asked_once_at_a_time(tmp_path):
    dns, looks = Dns(), itertools.count()
    dns.open.clear()

    def names() -> tuple[str, ...]:
        next(looks)
        return (CP,)

    async def test(mine: Resolver, told: list[tuple[str, ...]]) -> None:
        await aeventually(lambda: bool(mine.known.problems))
        assert "no answer within 0.05 s" in mine.known.problems[0]
        seen = next(looks)
        await aeventually(lambda: next(looks) > seen + 40)  # it would have been asked again
        assert dns.asked == 1
        dns.open.set()
        await aeventually(lambda: mine.known.addresses == ("192.0.2.1",))
        assert mine.known.problems == (), "a late answer is an answer"

    with_resolver(tmp_path, dns, test, names)


def test_the_last_good_answer_outlives_the_agent(tmp_path):
    dns = Dns()

    async def first(mine: Resolver, told: list[tuple[str, ...]]) -> None:
        await aeventually(lambda: told == [("192.0.2.1",)] and (tmp_path / resolver.FILE).is_file())

    with_resolver(tmp_path, dns, first)
    dns.answer = socket.gaierror(-3, "Temporary failure in name resolution")

    async def second(mine: Resolver, told: list[tuple[str, ...]]) -> None:
        assert told == [("192.0.2.1",)], "before anything is asked"
        await aeventually(lambda: bool(mine.known.problems))
        assert mine.known.addresses == ("192.0.2.1",)

    with_resolver(tmp_path, dns, second)


def test_names_that_come_and_go_are_followed(tmp_path):
    dns, names = Dns(), [CP]

    async def test(mine: Resolver, told: list[tuple[str, ...]]) -> None:
        await aeventually(lambda: told == [("192.0.2.1",)])
        names.clear()
        await aeventually(lambda: told[1:] == [()])

    with_resolver(tmp_path, dns, test, lambda: tuple(names))


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"\xff", b'{"answers": {"cp.example.com": {"x": "y"}}}', b'{"answers": {"cp.example.com": {"x": 1}}}'],
)
def test_what_cannot_be_read_or_written_stops_nothing(tmp_path, content):
    (tmp_path / resolver.FILE).write_bytes(content)

    async def test(mine: Resolver, told: list[tuple[str, ...]]) -> None:
        await aeventually(lambda: told == [("192.0.2.1",)])

    with_resolver(tmp_path, Dns(), test)
    with_resolver(tmp_path / "nowhere", Dns(), test)


def test_both_families_of_this_hosts_own_name():
    assert set(resolver.lookup("localhost")) & {"127.0.0.1", "::1"}
