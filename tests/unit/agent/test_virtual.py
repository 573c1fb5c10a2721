"""Who gets which virtual address and capture port."""

import ipaddress

from hypothesis import given, settings
from hypothesis import strategies as st

from agent import virtual
from agent.virtual import Held, Needed, Place, allocate

RANGE = ipaddress.ip_network("127.64.0.0/10")


def needs(*services: str, identities=(), taken=()) -> Needed:
    return Needed(frozenset(services), frozenset(identities), frozenset(taken))


def places(held: Held) -> dict[str, str]:
    return {name: place.at for name, place in held.addresses.items()}


def test_two_hosts_call_a_service_at_the_same_address():
    one = allocate(needs("shop/api", "shop/db", identities=["shop/web"]), Held(), 1.0)
    other = allocate(needs("shop/api", identities=["shop/web"]), Held(), 99.0)
    assert places(one)["shop/api"] == places(other)["shop/api"]
    assert one.ports == other.ports
    assert ipaddress.ip_address(places(one)["shop/api"]) in RANGE


def test_every_number_is_an_address_of_the_range_and_none_is_an_edge():
    last = (1 << 14) * 254 - 1
    for number in (0, 253, 254, last - 254, last):
        found = ipaddress.ip_address(virtual.address(number))
        assert found in RANGE
        assert found.packed[3] not in {0, 255}
    assert virtual.address(0) == "127.64.0.1"
    assert virtual.address(last) == "127.127.255.254"


def test_what_is_taken_goes_to_the_next():
    first = allocate(needs("shop/api"), Held(), 1.0)
    squatted = Held(addresses={"shop/old": Place(at=places(first)["shop/api"])})
    found = places(allocate(needs("shop/api", "shop/old"), squatted, 2.0))
    assert found["shop/old"] == places(first)["shop/api"]
    assert found["shop/api"] != found["shop/old"]


def test_an_address_is_nobody_elses_until_long_after():
    held = allocate(needs("shop/api"), Held(), 1.0)
    address = places(held)["shop/api"]
    idle = allocate(needs(), held, 100.0)
    assert idle.addresses["shop/api"] == Place(at=address, unused_since=100.0)
    again = allocate(needs("shop/api"), idle, 200.0)
    assert again.addresses["shop/api"] == Place(at=address)
    assert "shop/api" in allocate(needs(), idle, 100.0 + virtual.KEPT_SECONDS - 1).addresses
    assert "shop/api" not in allocate(needs(), idle, 100.0 + virtual.KEPT_SECONDS).addresses


def test_a_clock_that_was_set_back_keeps_nothing_for_ever():
    held = Held(addresses={"shop/api": Place(at="127.64.0.1", unused_since=9e12)})
    assert allocate(needs(), held, 50.0).addresses["shop/api"].unused_since == 50.0


def test_ports_keep_clear_of_what_others_listen_on():
    held = allocate(needs(identities=["shop/web"]), Held(), 1.0)
    port = int(held.ports["shop/web"].at)
    moved = allocate(needs(identities=["shop/web"], taken=[port]), held, 2.0)
    assert int(moved.ports["shop/web"].at) == port + 1
    full = allocate(
        needs(identities=["shop/web"], taken=range(virtual.FIRST_PORT, virtual.FIRST_PORT + virtual.PORTS)), held, 2.0
    )
    assert full.ports == {}


def test_what_is_held_is_bounded_and_the_oldest_makes_room():
    old = {f"shop/s{n}": Place(at=virtual.address(n), unused_since=float(n + 1)) for n in range(virtual.MAX_HELD)}
    found = allocate(needs("shop/new"), Held(addresses=old), 10_000.0).addresses
    assert len(found) == virtual.MAX_HELD
    assert "shop/new" in found
    assert "shop/s0" not in found
    assert "shop/s1" in found
    many = allocate(needs(*(f"a/{n}" for n in range(virtual.MAX_HELD + 5))), Held(), 1.0).addresses
    assert len(many) == virtual.MAX_HELD


def test_a_file_that_was_edited_gives_nothing_that_is_not_ours():
    held = Held(
        addresses={
            "a/a": Place(at="127.64.0.1"), "a/b": Place(at="127.64.0.1"), "a/c": Place(at="10.0.0.1"),
            "a/d": Place(at="127.64.1.255"), "a/e": Place(at="127.64.01.1"), "a/f": Place(at="x"),
        },
        ports={"a/a": Place(at="22"), "a/b": Place(at=str(virtual.FIRST_PORT)), "a/c": Place(at="-1")},
    )  # fmt: skip
    sound = virtual.sound(held)
    assert places(sound) == {"a/a": "127.64.0.1"}
    assert set(sound.ports) == {"a/b"}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.frozensets(st.sampled_from([f"n/{c}" for c in "abcdefgh"])), max_size=12))
def test_whatever_comes_and_goes_no_two_share_and_nobody_moves(rounds):
    held, seen, now = Held(), {}, 0.0
    for names in rounds:
        now += 10.0
        held = allocate(needs(*names), held, now)
        found = places(held)
        assert names <= found.keys()
        assert len(set(found.values())) == len(found)
        for name, address in found.items():
            assert seen.setdefault(name, address) == address
