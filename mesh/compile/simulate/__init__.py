"""What an Envoy with a compiled configuration does with one request or connection, without an Envoy. Pure.

    Snapshot, request, draw --call / answer--> Verdict (with its trace)
    Snapshot, request --calling / answering, shares--> all Verdicts, each with its probability

It reads the protobuf messages that Envoy would get, and knows nothing of what compiled them. Whatever it meets there
and does not know is an error that names the field (`Unsupported`), never a guess. What it says is compared with a real
Envoy (tests/integration/traffic/differential).

    calls        the questions                       verdict    the words of the answer
    connection   listener, chain, network filters    tls        chain by SNI, admission by name
    manager      a request through its manager       request    what the manager makes of it first
    routing      virtual host, route, weights        matching   a route's conditions
    filters      RBAC, faults; limiting, cors        rules      RBAC's matcher
    forward      send, redirect, answer              replies    local replies
    headers, paths, text, formats  how Envoy edits, compares and writes
    chance, run, fields      random choices; the trace; which fields are understood

Not asked: endpoints and their health, certificates' dates and signatures, bodies, sizes and counts, HTTP/1's upgrades.
"""

from mesh.compile.simulate.calls import answer, answering, call, calling, shares
from mesh.compile.simulate.headers import edited
from mesh.compile.simulate.verdict import (
    PROXY_MADE,
    Change,
    Closed,
    Deny,
    Direct,
    Edits,
    Fault,
    NoRoute,
    Redirect,
    Retry,
    Share,
    Step,
    To,
    Unsupported,
    Verdict,
)

__all__ = [
    "PROXY_MADE",
    "Change",
    "Closed",
    "Deny",
    "Direct",
    "Edits",
    "Fault",
    "NoRoute",
    "Redirect",
    "Retry",
    "Share",
    "Step",
    "To",
    "Unsupported",
    "Verdict",
    "answer",
    "answering",
    "call",
    "calling",
    "edited",
    "shares",
]
