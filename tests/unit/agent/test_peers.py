"""Where an agent connects to, and when it has to connect anew."""

import msgspec

from agent.peers import Peers
from agent.settings import Settings
from agent.state import StoredIdentity
from mesh.model import Identity, World

TOLD = StoredIdentity(
    node="vm1",
    trust_domain="mesh.test",
    cluster="one",
    gates=("10.0.0.9:2379",),
    controlplanes=("https://10.0.0.9:8443", "https://10.0.0.8:8443"),
    roots=("root at the join",),
    own=Identity(spiffe_id="spiffe://mesh.test/node/vm1", chain_pem="1", key_pem="-", not_before=0, not_after=9e9),
)


class Host:
    def __init__(self, **settings: tuple[str, ...]) -> None:
        self.stored: StoredIdentity | None = None
        self.peers = Peers(Settings(node="vm1", address="10.0.0.1", **settings), lambda: self.stored, World)


def test_before_the_join_there_is_what_the_settings_say_and_nobody_to_be():
    host = Host(controlplanes=("https://10.0.0.9:8443",))
    assert host.peers.controlplanes() == ("https://10.0.0.9:8443",)
    assert (host.peers.gates(), host.peers.roots(), host.peers.tls(), host.peers.renewed()) == ((), (), None, False)


def test_what_the_join_told_comes_after_what_the_settings_say():
    host = Host(controlplanes=("https://10.0.0.7:8443", "https://10.0.0.9:8443"))
    host.stored = TOLD
    assert host.peers.controlplanes() == ("https://10.0.0.7:8443", "https://10.0.0.9:8443", "https://10.0.0.8:8443")
    assert host.peers.gates() == TOLD.gates
    assert host.peers.roots() == TOLD.roots
    named = Host(gates=("10.0.0.6:2379",))
    named.stored = TOLD
    assert named.peers.gates() == ("10.0.0.6:2379",)


def test_another_certificate_or_other_roots_are_told_once():
    host = Host()
    host.stored = TOLD
    assert [host.peers.renewed(), host.peers.renewed()] == [True, False]
    host.stored = msgspec.structs.replace(TOLD, held={"shop/web": TOLD.own})
    assert not host.peers.renewed()
    host.stored = msgspec.structs.replace(TOLD, own=msgspec.structs.replace(TOLD.own, chain_pem="2"))
    assert [host.peers.renewed(), host.peers.renewed()] == [True, False]
    host.stored = msgspec.structs.replace(host.stored, roots=("another",))
    assert [host.peers.renewed(), host.peers.renewed()] == [True, False]
