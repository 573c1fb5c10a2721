"""Is what Envoy did what the simulator said?"""

from collections.abc import Iterable, Iterator

from mesh.compile.simulate import PROXY_MADE, Closed, Deny, Direct, Fault, NoRoute, Redirect, To, Verdict, edited
from tests.integration.traffic.differential import rig
from tests.integration.traffic.differential.rig import ANSWER, Headers, Seen

_OF_EVERY_ANSWER = {"date", "content-length", "connection", "transfer-encoding"}


def differences(said: Verdict, found: rig.Answer | rig.Closed, seen: list[Seen], method: str) -> Iterator[str]:
    """In words. `seen`: what clusters got of this request, copies too."""
    match said, found:
        case Closed() | Deny(status=0), rig.Closed():
            return
        case Closed() | Deny(status=0), _:
            yield f"said to be closed, and it was answered: {found}"
        case _, rig.Closed():
            yield f"closed: {found.why}"
        case To(), rig.Answer():
            yield from _sent(said, found, seen)
        case Deny() | Direct() | Fault() | NoRoute() | Redirect(), rig.Answer():
            if seen:
                yield f"said to be answered, and it was sent on: {seen}"
            yield from _answered(said, found, method)


def _sent(said: To, found: rig.Answer, seen: list[Seen]) -> Iterator[str]:
    first = [s for s in seen if s.cluster not in said.mirrors]
    if len(first) != 1:
        yield f"said to go to {said.cluster}, and got {found}; seen {seen}"
        return
    got, headers = first[0], dict_of(first[0].headers)
    yield from _unequal("cluster", said.cluster, got.cluster)
    yield from _unequal("path", said.path, got.path)
    yield from _unequal("host", [said.host], headers.pop("host", []))
    wanted = dict_of(said.headers)
    for name in (
        PROXY_MADE | {"content-length"}
    ) - wanted.keys():  # HTTP/1 tells the length of nothing, for some methods
        headers.pop(name, None)
    yield from _unequal("headers", wanted, headers)
    yield from _unequal("copies", sorted(said.mirrors), sorted(s.cluster for s in seen if s is not got))
    for copy in seen:
        if copy is not got:
            yield from _unequal("path of a copy", said.path, copy.path)
    yield from _unequal("status", 200, found.status)
    ignored = _OF_EVERY_ANSWER | ({"set-cookie"} if said.hashed_by else set())
    yield from _unequal("answer's headers", _headers(ANSWER, said), _without(dict_of(found.headers), ignored))


def _answered(said: Deny | Direct | Fault | NoRoute | Redirect, found: rig.Answer, method: str) -> Iterator[str]:
    grpc = said.grpc_status is not None
    yield from _unequal("status", 200 if grpc else said.status, found.status)
    headers = _without(dict_of(found.headers), _OF_EVERY_ANSWER | {"content-type"})
    yield from _unequal("gRPC status", [str(said.grpc_status)] if grpc else [], headers.pop("grpc-status", []))
    headers.pop("grpc-message", None)
    base: Headers = ()
    if isinstance(said, Redirect):
        base = (("location", said.location),)
    if isinstance(said, Direct):
        base = said.headers
        if not grpc and method != "HEAD":
            yield from _unequal("body", said.body, found.body)
    yield from _unequal("answer's headers", _headers(base, said), headers)


def _headers(base: Headers, said: To | Deny | Direct | Fault | NoRoute | Redirect) -> dict[str, list[str]]:
    found = dict_of(edited(base, said.response))
    return found | {name: [value] for name, value in said.cors}


def _unequal(what: str, said: object, found: object) -> Iterator[str]:
    if said != found:
        yield f"{what}: said {said!r}, found {found!r}"


def dict_of(headers: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in headers:
        found.setdefault(name, []).append(value)
    return found


def _without(headers: dict[str, list[str]], names: Iterable[str]) -> dict[str, list[str]]:
    return {name: values for name, values in headers.items() if name not in names}
