"""Join, sign and renew against a whole control-plane node on a store in memory; the keeper against a CA that fails."""

import asyncio
import random
import time

import msgspec
import pytest
import yaml
from click.testing import CliRunner
from cryptography import x509

from agent import metrics, tls
from agent.cli import main
from agent.identity import exchange, keeper, process
from agent.identity.join import JoinError, join, read_token
from agent.identity.joiner import Joiner
from agent.identity.keeper import Keeper
from agent.identity.orders import Order, Outcome, SignOrder
from agent.settings import Settings
from agent.state import Disk, StoredIdentity
from ca import client
from mesh.model import Identity
from tests.support.ca import Clock
from tests.support.waiting import aeventually
from tests.unit.controlplane.harness import mesh

HOUR = 3600.0


async def token(cp, node: str = "vm1", *identities: str) -> str:
    status, body = await cp.call("POST", "/v1/tokens", {"node": node, "identities": identities, "ttlSeconds": 600})
    assert status in {200, 201}, body
    return body["token"]


def settings(tmp_path, cp, **more) -> Settings:
    return Settings(**{"node": "vm1", "address": "10.0.0.1", "controlplanes": (cp.url,), **more})


def with_cp(tmp_path, scenario) -> None:
    async def bounded():
        async with asyncio.timeout(60), mesh(tmp_path / "cp") as cp:
            await scenario(cp, Disk(tmp_path / "data"))

    asyncio.run(bounded())


def order(stored: StoredIdentity, cp, *wanted: str) -> SignOrder:
    return SignOrder(
        urls=(cp.url,), roots=stored.roots, trust_domain=stored.trust_domain, node=stored.node, own=stored.own,
        wanted=wanted,
    )  # fmt: skip


def test_a_token_becomes_an_identity_on_disk_and_then_certificates(tmp_path):
    async def scenario(cp, disk):
        text = await token(cp, "vm1", "shop/web")
        stored = await join(settings(tmp_path, cp), disk, text, exchange.run, time.time())
        assert stored.own.spiffe_id == "spiffe://mesh.test/node/vm1"
        assert Disk(disk.folder).identities.load() == (stored,)
        assert not disk.pending_key.exists()
        outcome = await exchange.run(
            Order(now=time.time(), sign=order(stored, cp, "shop/web", "shop/db", "node", "gate"))
        )
        assert outcome.error == ""
        assert set(outcome.held) == {"shop/web", "node"}
        assert set(outcome.denied) == {"shop/db", "gate"}, "one denial does not stop the others"
        leaf = x509.load_pem_x509_certificate(outcome.held["shop/web"].chain_pem.encode())
        uris = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert uris.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://mesh.test/ns/shop/sa/web"]
        keys = {i.key_pem for i in outcome.held.values()} | {stored.own.key_pem}
        assert len(keys) == 3, "every certificate has a key of its own"

    with_cp(tmp_path, scenario)


def test_a_lost_answer_may_be_repeated_by_the_same_key_only(tmp_path):
    async def scenario(cp, disk):
        text = await token(cp)
        lost = []

        async def loses_the_answer(order_):
            outcome = await exchange.run(order_)
            if order_.join and not lost:
                lost.append(outcome)
                return Outcome(error="connection lost")
            return outcome

        with pytest.raises(JoinError, match="connection lost"):
            await join(settings(tmp_path, cp), disk, text, loses_the_answer, time.time())
        assert disk.pending_key.exists()
        stored = await join(settings(tmp_path, cp), disk, text, loses_the_answer, time.time())
        assert stored.own.key_pem == lost[0].joined.own.key_pem
        with pytest.raises(JoinError, match="token create") as caught:
            await join(settings(tmp_path, cp), Disk(tmp_path / "thief"), text, exchange.run, time.time())
        assert caught.value.final

    with_cp(tmp_path, scenario)


def test_a_join_that_cannot_work_says_what_to_do(tmp_path):
    async def scenario(cp, disk):
        good = await token(cp)
        other = good.rsplit(".", 1)[0] + "." + "0" * 32
        for text, hint in (("nonsense", "not a join token"), (other, "another pin")):
            with pytest.raises(JoinError, match=hint) as caught:
                await join(settings(tmp_path, cp), disk, text, exchange.run, time.time())
        for off, words in ((-3600, "clock is 60 min behind the control plane's"), (7500, "2.1 h ahead of")):
            with pytest.raises(JoinError, match=words) as told:
                await join(settings(tmp_path, cp), disk, good, exchange.run, time.time() + off)
            assert not told.value.final
            assert "is a control-plane node running" not in str(told.value)
            assert caught.value.final
        nobody = settings(tmp_path, cp, controlplanes=("https://127.0.0.1:1",))
        with pytest.raises(JoinError, match="is a control-plane node running") as caught:
            await join(nobody, disk, good, exchange.run, time.time())
        assert not caught.value.final
        with pytest.raises(JoinError, match="controlplanes"):
            await join(settings(tmp_path, cp, controlplanes=()), disk, good, exchange.run, time.time())
        with pytest.raises(JoinError, match="cannot be read"):
            read_token(tmp_path / "none")

    with_cp(tmp_path, scenario)


def test_an_expired_node_certificate_is_renewed_by_proof_of_its_key(tmp_path):
    async def scenario(cp, disk):
        stored = await join(settings(tmp_path, cp), disk, await token(cp, "vm1", "shop/web"), exchange.run, time.time())
        # The agent's own clock says that it expired; the control plane takes the proof of a valid one as well.
        expired = msgspec.structs.replace(stored.own, not_after=time.time() - 1)
        outcome = await exchange.run(
            Order(now=time.time(), sign=msgspec.structs.replace(order(stored, cp, "shop/web"), own=expired))
        )
        assert outcome.error == ""
        assert set(outcome.held) == {"node", "shop/web"}
        assert outcome.held["node"].key_pem != stored.own.key_pem

    with_cp(tmp_path, scenario)


def test_the_helper_process_does_the_same(tmp_path):
    async def scenario(cp, disk):
        stored = await join(settings(tmp_path, cp), disk, await token(cp, "vm1", "shop/web"), process.run, time.time())
        outcome = await process.run(Order(now=time.time(), sign=order(stored, cp, "shop/web")))
        assert set(outcome.held) == {"shop/web"}
        refused = await process.run(Order(now=time.time()))
        assert "nothing" in refused.error

    with_cp(tmp_path, scenario)


def test_what_the_ca_sends_is_checked():
    key, other = client.new_key(), client.new_key()
    with pytest.raises(exchange.NotAsAskedError, match="not a certificate"):
        exchange.accept("garbage", key, "spiffe://d/x", 0)
    chain = _self_signed(key, "spiffe://d/x")
    assert exchange.accept(chain, key, "spiffe://d/x", 5e8).not_before == 1e9
    assert exchange.accept(chain, key, "spiffe://d/x", 1.5e9).not_before == 1.5e9, "its life with us begins now"
    with pytest.raises(exchange.NotAsAskedError, match="key that is not ours"):
        exchange.accept(chain, other, "spiffe://d/x", 0)
    with pytest.raises(exchange.NotAsAskedError, match="was asked for"):
        exchange.accept(chain, key, "spiffe://d/y", 0)


def _self_signed(key_pem: str, uri: str) -> str:
    from datetime import UTC, datetime

    from cryptography.hazmat.primitives import hashes, serialization

    key = serialization.load_pem_private_key(key_pem.encode(), None)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([])).issuer_name(x509.Name([])).serial_number(7).public_key(key.public_key())
        .not_valid_before(datetime.fromtimestamp(1e9, UTC)).not_valid_after(datetime.fromtimestamp(2e9, UTC))
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=True)
    )  # fmt: skip
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


# --- keeper ---


def identity(now: float, life: float = 3 * HOUR) -> Identity:
    return Identity(spiffe_id="spiffe://d/x", chain_pem="", key_pem="k", not_before=now, not_after=now + life)


class Ca:
    """Issues what it is asked for, or fails as it is told."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.asked, self.error, self.deny = clock, [], "", {}

    async def __call__(self, order_: Order) -> Outcome:
        assert order_.sign is not None
        self.asked.append(order_.sign.wanted)
        if self.error:
            return Outcome(error=self.error)
        return Outcome(
            held={n: identity(self.clock()) for n in order_.sign.wanted if n not in self.deny},
            denied={n: r for n, r in self.deny.items() if n in order_.sign.wanted},
        )


class Kept:
    def __init__(self, tmp_path, clock: Clock) -> None:
        self.ca = Ca(clock)
        self.wanted = {"shop/web"}
        self.changes = 0
        self.due = 0
        self.disk = Disk(tmp_path / "data")
        self.disk.identities.load()
        self.keeper = Keeper(
            self.disk, self.ca, urls=lambda: ("https://x",), roots=lambda: ("r",), wanted=lambda: self.wanted,
            on_change=self.changed, on_due=self.is_due, clock=clock, rng=random.Random(3), counters=metrics.Counters(),
        )  # fmt: skip
        self.keeper.start(StoredIdentity(node="vm1", trust_domain="d", cluster="c", own=identity(clock(), 24 * HOUR)))

    def changed(self) -> None:
        self.changes += 1

    def is_due(self) -> None:
        self.due += 1
        self.keeper.renew()


def test_missing_ones_are_asked_for_and_kept_on_disk(tmp_path):
    async def scenario():
        clock = Clock()
        kept = Kept(tmp_path, clock)
        await kept.keeper._once()
        assert kept.ca.asked == [("shop/web",)]
        assert kept.changes == 1
        assert set(Disk(kept.disk.folder).identities.load()[0].held) == {"shop/web"}
        delay = await kept.keeper._once()
        assert len(kept.ca.asked) == 1, "nothing is due"
        assert HOUR * 0.8 < delay <= HOUR
        clock.now += delay
        await kept.keeper._once()
        assert kept.ca.asked[1:] == [("shop/web",)]
        kept.wanted = set()
        kept.keeper.forget(kept.wanted)
        assert kept.keeper.held == {}

    asyncio.run(scenario())


def test_certificates_are_renewed_at_once_after_the_clock_has_jumped(tmp_path, monkeypatch):
    """A host that slept, or whose clock was set: nothing but the clock tells."""
    monkeypatch.setattr(keeper, "LOOK_SECONDS", 0.01)

    async def scenario():
        clock = Clock()
        kept = Kept(tmp_path, clock)
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            running = group.create_task(kept.keeper.run())
            kept.keeper.renew()
            while not kept.ca.asked or kept.due < 3:
                await asyncio.sleep(0.005)
            assert len(kept.ca.asked) == 1, "looking costs nothing"
            clock.now += 20 * HOUR
            while len(kept.ca.asked) < 2:
                await asyncio.sleep(0.005)
            running.cancel()
        assert set(kept.ca.asked[1]) == {"node", "shop/web"}

    asyncio.run(scenario())


def test_a_ca_that_is_away_costs_nothing_but_runway(tmp_path):
    async def scenario():
        clock = Clock()
        kept = Kept(tmp_path, clock)
        await kept.keeper._once()
        held = kept.keeper.held
        kept.ca.error = "nobody answers"
        clock.now += 1.6 * HOUR
        delays = [await kept.keeper._once() for _ in range(12)]
        assert kept.keeper.held == held
        assert kept.changes == 1
        assert max(delays) <= 300
        assert any(delay > 10 for delay in delays), "it backs off"
        assert any("late" in p for p in kept.keeper.problems())
        assert any("nobody answers" in p for p in kept.keeper.problems())
        kept.ca.error = ""
        await kept.keeper._once()
        assert kept.keeper.problems() == ()

    asyncio.run(scenario())


def test_one_denied_identity_is_a_problem_and_is_not_asked_for_at_once_again(tmp_path):
    async def scenario():
        clock = Clock()
        kept = Kept(tmp_path, clock)
        kept.wanted = {"shop/web", "shop/db"}
        kept.ca.deny = {"shop/db": "not this node's"}
        delay = await kept.keeper._once()
        assert set(kept.keeper.held) == {"shop/web"}
        assert delay <= 60
        assert any("shop/db" in p for p in kept.keeper.problems())
        await kept.keeper._once()
        assert len(kept.ca.asked) == 1
        clock.now += 61
        kept.ca.deny = {}
        await kept.keeper._once()
        assert kept.ca.asked[-1] == ("shop/db",)
        assert kept.keeper.problems() == ()

    asyncio.run(scenario())


def test_the_keeper_runs_when_it_is_told_and_says_when_it_will_be_due(tmp_path):
    async def scenario():
        kept = Kept(tmp_path, Clock())
        kept.ca.error = "nobody answers"
        task = asyncio.create_task(kept.keeper.run())
        kept.keeper.renew()
        await aeventually(lambda: len(kept.ca.asked) >= 2, timeout=20)
        assert kept.due
        task.cancel()
        await asyncio.wait({task})

    asyncio.run(scenario())


# --- joiner ---


def test_a_refused_token_is_not_tried_again_and_a_new_one_is(tmp_path):
    async def scenario(cp, disk):
        path = tmp_path / "token"
        path.write_text("hf1.bad.bad." + "0" * 32)
        tried = []

        async def counted(order_):
            if order_.join:
                tried.append(order_.join.token)
            return await exchange.run(order_)

        joined = []
        joiner = Joiner(
            settings(tmp_path, cp, token_file=str(path)), disk, counted, on_joined=joined.append, clock=time.time,
            rng=random.Random(1),
        )  # fmt: skip
        joiner.start()
        assert await joiner._once() is None
        assert await joiner._once() is None
        assert len(tried) == 1
        assert joiner.problem.startswith("this host has not joined: ")
        assert "token create" in joiner.problem
        path.write_text(await token(cp))
        stored = await joiner._once()
        assert stored is not None
        assert stored.node == "vm1"

    with_cp(tmp_path, scenario)


def test_a_running_agent_takes_what_the_join_command_put_on_disk(tmp_path):
    async def scenario(cp, disk):
        joined = []
        joiner = Joiner(
            settings(tmp_path, cp), disk, exchange.run, on_joined=joined.append, clock=time.time, rng=random.Random(1)
        )
        task = asyncio.create_task(joiner.run())
        joiner.start()
        await aeventually(lambda: "holdfast-agent join" in joiner.problem)
        await join(settings(tmp_path, cp), Disk(disk.folder), await token(cp), exchange.run, time.time())
        await aeventually(lambda: joined)
        assert joiner.problem == ""
        task.cancel()
        await asyncio.wait({task})

    with_cp(tmp_path, scenario)


def test_the_identity_of_another_node_is_not_taken(tmp_path):
    async def scenario(cp, disk):
        await join(settings(tmp_path, cp), disk, await token(cp), exchange.run, time.time())
        path = tmp_path / "token"
        path.write_text(await token(cp, "vm2"))
        renamed = settings(tmp_path, cp, node="vm2", token_file=str(path))
        joiner = Joiner(renamed, disk, exchange.run, on_joined=lambda _: None, clock=time.time, rng=random.Random(1))
        stored = await joiner._once()
        assert stored is not None
        assert stored.own.spiffe_id.endswith("/node/vm2")

    with_cp(tmp_path, scenario)


def test_the_join_command(tmp_path):
    async def scenario(cp, disk):
        config = tmp_path / "agent.yaml"
        config.write_text(
            yaml.safe_dump(
                {"node": "vm1", "address": "127.0.0.1", "dataDir": str(disk.folder), "controlplanes": [cp.url]}
            )
        )
        (tmp_path / "token").write_text(await token(cp))
        command = ["join", "--config", str(config), "--token-file", str(tmp_path / "token")]
        first = await asyncio.to_thread(CliRunner().invoke, main, command)
        assert first.exit_code == 0, first.output
        assert "joined as spiffe://mesh.test/node/vm1" in first.output
        again = await asyncio.to_thread(CliRunner().invoke, main, command)
        assert again.exit_code == 1
        assert "--force" in again.output
        used = await asyncio.to_thread(CliRunner().invoke, main, [*command, "--force"])
        assert used.exit_code == 1
        assert "token create" in used.output
        assert "hf1." not in used.output, "no token is echoed"

    with_cp(tmp_path, scenario)


def test_roots_that_are_no_certificates_are_left_out(tmp_path):
    async def scenario(cp, disk):
        stored = await join(settings(tmp_path, cp), disk, await token(cp), exchange.run, time.time())
        (good,) = stored.roots
        assert tls.usable(("garbage", good, "", "é", good.replace("M", "!"))) == (good,)
        tls.context(tls.usable(("garbage", good)), stored.own)

    with_cp(tmp_path, scenario)
