"""Peering tokens: once, for one cluster, until they expire; and whatever is wrong with one, nothing is written."""

import asyncio

import msgspec
import pytest

from mesh import codec, keys
from mesh.store.protocol import Put
from multicluster import tokens, trust
from tests.support.waiting import aeventually
from tests.unit.federation.clusters import cluster, clusters, connected, peered, state
from tests.unit.multicluster.roots import root


async def make(cp, **body):
    status, made = await cp.call("POST", "/v1/peering/tokens", body)
    return made["token"] if status == 201 else (status, made)


async def accept(cp, token):
    return await cp.call("POST", "/v1/peering/accept", {"token": token})


async def nothing(*many):
    for cp in many:
        assert (await cp.store.list(keys.prefix_for("Peering"))).items == ()
        assert len((await cp.store.list(keys.BUNDLES)).items) == 1


def application(token, **changes):
    said = tokens.parse(token)
    made = {
        "id": said.id,
        "secret": said.secret,
        "cluster": "west",
        "trustDomain": "west.test",
        "addresses": ["https://127.0.0.1:1"],
        "bundle": trust.document(1, [root("west.test")]).decode(),
    }
    return made | changes


def test_a_token_is_for_one_cluster_which_may_repeat_the_call(tmp_path):
    async def run():
        async with clusters(tmp_path, "west", "east", "north") as (west, east, north):
            token = await peered(east, west)
            before = await east.store.list(keys.prefix_for("Peering"))
            assert (await accept(west, token))[0] == 201  # as if the first answer had been lost
            assert (await east.store.list(keys.prefix_for("Peering"))).items == before.items
            status, body = await accept(north, token)
            assert status == 422
            assert "not valid" in body["error"]
            await nothing(north)
            await connected(west, "east")

    asyncio.run(run())


def test_a_token_expires(tmp_path):
    async def run():
        async with clusters(tmp_path, "west", "east") as (west, east):
            token = await make(east)
            key = keys.PEERING_TOKENS + tokens.parse(token).id
            record = codec.decode_struct(tokens.Record, (await east.store.get(key)).value)
            late = msgspec.structs.replace(record, expires=record.created)
            await east.store.txn((), (Put(key, codec.encode_struct(late)),))
            assert (await accept(west, token))[0] == 422
            await nothing(west, east)

    asyncio.run(run())


def test_a_token_of_another_root_is_shown_to_nobody(tmp_path):
    """Whoever sits at the token's address, with another CA, does not see the secret."""

    async def run():
        async with clusters(tmp_path, "west", "east", "north") as (west, east, north):
            said = tokens.parse(await make(east))
            moved = tokens.text_of(msgspec.structs.replace(said, addresses=(north.url,)))
            status, body = await accept(west, moved)
            assert status == 502
            assert "pin" in body["error"]
            assert "establish" not in north.audit_text()
            await nothing(west, east, north)

    asyncio.run(run())


def test_a_token_that_nobody_answers_is_said_so(tmp_path):
    async def run():
        async with clusters(tmp_path, "west", "east") as (west, east):
            said = tokens.parse(await make(east))
            dead = tokens.text_of(msgspec.structs.replace(said, addresses=("https://127.0.0.1:1",)))
            status, body = await accept(west, dead)
            assert (status, "not reached" in body["error"]) == (502, True)
            # With one dead and one living address it works.
            both = tokens.text_of(msgspec.structs.replace(said, addresses=("https://127.0.0.1:1", *said.addresses)))
            assert (await accept(west, both))[0] == 201

    asyncio.run(run())


def test_a_cluster_is_no_peer_of_itself_nor_of_its_namesake(tmp_path):
    async def run():
        async with cluster(tmp_path, "west") as west:
            status, body = await accept(west, await make(west))
            assert status == 422
            assert "both clusters are called 'west'" in body["error"]
            token = await make(west)
            for changes, word in (
                ({"cluster": "west", "trustDomain": "x.test"}, "both clusters are called"),
                ({"cluster": "east", "trustDomain": "west.test"}, "of trust domain"),
            ):
                domain = changes["trustDomain"]
                bundle = trust.document(1, [root(domain)]).decode()
                body = application(token, bundle=bundle, **changes)
                status, told = await west.call("POST", "/v1/peering/establish", body, token=None)
                assert status == 422
                assert word in told["error"]
            await nothing(west)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"secret": "x" * 43}, 403),
        ({"id": "0" * 16}, 403),
        ({"id": "../../operators"}, 403),
        ({"cluster": "a.b"}, 422),
        ({"addresses": ["http://x:1"]}, 422),
        ({"bundle": "{}"}, 422),
        ({"bundle": trust.document(1, [root("east.test")]).decode()}, 422),
        ({"trustDomain": "WEST"}, 422),
        ({"bundle": 5}, 400),
    ],
)
def test_a_bad_application_uses_nothing_up(tmp_path, changes, status):
    async def run():
        async with cluster(tmp_path, "east") as east:
            token = await make(east)
            body = application(token, **changes)
            assert (await east.call("POST", "/v1/peering/establish", body, token=None))[0] == status
            await nothing(east)
            good = application(token)
            assert (await east.call("POST", "/v1/peering/establish", good, token=None))[0] == 200
            # The same cluster with another bundle is another one.
            assert (await east.call("POST", "/v1/peering/establish", application(token), token=None))[0] == 403

    asyncio.run(run())


def test_two_peers_cannot_share_a_name_or_a_trust_domain(tmp_path):
    async def run():
        async with cluster(tmp_path, "east") as east:
            good = application(await make(east))
            assert (await east.call("POST", "/v1/peering/establish", good, token=None))[0] == 200
            for changes in (
                {"cluster": "other"},
                {"trustDomain": "other.test", "bundle": trust.document(1, [root("other.test")]).decode()},
            ):
                body = application(await make(east), **changes)
                status, told = await east.call("POST", "/v1/peering/establish", body, token=None)
                assert status == 409
                assert "there is a peering west" in told["error"]
            assert (await state(east, "west"))["trustDomain"] == "west.test"

    asyncio.run(run())


def test_no_two_peerings_are_applied_for_one_trust_domain(tmp_path):
    def peering(name, domain):
        meta = {"name": name}
        return {"apiVersion": "holdfast.dev/v1", "kind": "Peering", "metadata": meta, "spec": {"trustDomain": domain}}

    async def run():
        async with cluster(tmp_path, "east") as east:
            assert (await east.apply(peering("west", "west.test")))[0] == 200
            status, told = await east.apply(peering("other", "west.test"))
            assert status == 422
            assert "Peering west has it already" in told["violations"][0]["reason"]
            assert (await east.apply(peering("west", "west.test"), peering("north", "north.test")))[0] == 200
            for name, domain in (("east", "x.test"), ("south", "east.test")):
                assert (await east.apply(peering(name, domain)))[0] == 422

    asyncio.run(run())


def test_times_that_are_impossible_make_no_token(tmp_path):
    async def run():
        async with cluster(tmp_path, "east") as east:
            for ttl in (0, 10**9):
                status, _ = await make(east, ttlSeconds=ttl)
                assert status == 422
            assert (await east.store.list(keys.PEERING_TOKENS)).items == ()

    asyncio.run(run())


def test_no_secret_of_a_token_is_kept(tmp_path):
    async def run():
        async with clusters(tmp_path, "west", "east") as (west, east):
            token = await peered(east, west)
            secret = tokens.parse(token).secret
            for cp in (west, east):
                raw = b"".join(item.value for item in (await cp.store.list(keys.ALL)).items)
                assert secret.encode() not in raw
                assert secret not in cp.audit_text()
                assert token not in cp.audit_text()

    asyncio.run(run())


def test_whoever_holds_a_token_does_not_take_a_peers_place(tmp_path):
    """With roots of its own, it would speak for that peer's whole trust domain."""

    async def establish(cp, token, **changes):
        return await cp.call("POST", "/v1/peering/establish", application(token, **changes), token=None)

    async def run():
        async with clusters(tmp_path, "west", "east") as (west, east):
            await peered(east, west)
            key = keys.BUNDLES + "west.test"
            before = await east.store.get(key)
            status, told = await establish(east, await make(east))
            assert status == 403
            assert "peering token --for west" in told["error"]
            assert await east.store.get(key) == before
            # One that was made for it may; one that was made for another may not.
            status, told = await establish(east, await make(east, peer="north"))
            assert (status, "for the cluster north alone" in told["error"]) == (403, True)
            assert await east.store.get(key) == before
            assert (await establish(east, await make(east, peer="west")))[0] == 200
            assert (await make(east, peer="../x"))[0] == 422

    asyncio.run(run())


def test_a_token_of_another_ca_takes_a_peers_place_only_by_the_operators_word(tmp_path):
    async def run():
        (tmp_path / "posing").mkdir()
        async with clusters(tmp_path, "west", "east") as (west, east), cluster(tmp_path / "posing", "east") as posing:
            await peered(east, west)
            await connected(west, "east")
            before = west.context.mirror.view.bundle("east.test")
            token = await make(posing)
            status, told = await accept(west, token)
            assert (status, "set up anew" in told["error"]) == (409, True)
            assert west.context.mirror.view.bundle("east.test") == before
            assert west.context.mirror.view.peering("east").spec.addresses == (east.url,)
            assert "establish" not in posing.audit_text()
            status, _ = await west.call("POST", "/v1/peering/accept", {"token": token, "anew": True})
            assert status == 201
            roots = posing.context.mirror.view.bundle("east.test").spec.roots
            await aeventually(lambda: west.context.mirror.view.bundle("east.test").spec.roots == roots)
            await connected(posing, "west")

    asyncio.run(run())


def test_a_peer_that_was_deleted_does_not_come_back_by_the_token_that_it_used(tmp_path):
    async def run():
        async with clusters(tmp_path, "west", "east") as (west, east):
            token = await peered(east, west)
            assert (await accept(west, token))[0] == 201  # an answer may have been lost
            await east.call("DELETE", "/v1/objects/peerings/west")
            await aeventually(lambda: east.context.mirror.view.peering("west") is None)
            status, told = await accept(west, token)
            assert (status, "a new token is needed" in told["error"]) == (422, True)
            assert east.context.mirror.view.peering("west") is None
            assert (await accept(west, await make(east)))[0] == 201

    asyncio.run(run())
