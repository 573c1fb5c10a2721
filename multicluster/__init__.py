"""What neighbours may know: peering between equals, federated trust, export and import.

    wire      P  versioned messages between clusters, and how a set of items is told apart from another
    exports   P  what of this cluster a peer is offered
    imports   P  what of a peer's offer is taken: names, sizes, counts; each refusal has a reason
    trust     P  which bundle of which trust domain is believed; the SPIFFE bundle format
    session   P  hello, difference, offers, acks: both ends of one connection, without I/O
    tokens    P  the text that an operator carries from one cluster to the other
    link         the shells: one end of a session over a WebSocket; calls to a peer

P is pure: no clock, loop, network, disk, log or store. A peer is untrusted: what it says is bounded before it is read,
and lands under imports/<peer>/ only. Who writes there, and when, is `controlplane.peers`.
"""
