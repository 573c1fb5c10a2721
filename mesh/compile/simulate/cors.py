"""The CORS filter: whose pages may read the answer."""

from typing import Any

from mesh.compile.simulate.request import Request
from mesh.compile.simulate.run import Run
from mesh.compile.simulate.text import matches
from mesh.compile.simulate.verdict import Headers

_ORIGIN, _METHOD = "origin", "access-control-request-method"
_ALLOW = "access-control-allow-"


def answer(run: Run, policies: list[Any], request: Request) -> tuple[bool, Headers]:
    """Is it a preflight that the filter answers itself, and the headers that the filter sets."""
    origin = request.header(_ORIGIN)
    if not policies or not origin or not _enabled(run, policies):
        return False, ()
    allowed = any(matches(m, "*") or matches(m, origin) for m in _first(policies, "allow_origin_string_match") or ())
    if request.method == "OPTIONS" and request.header(_METHOD):
        forward = _first(policies, "forward_not_matching_preflights")
        if allowed or not (forward is None or forward.value):
            return True, _preflight(policies, origin) if allowed else ()
    if not allowed:
        return False, ()
    exposed = _first(policies, "expose_headers")
    return False, (
        (f"{_ALLOW}origin", origin),
        *_credentials(policies),
        *((("access-control-expose-headers", exposed),) if exposed else ()),
    )


def _preflight(policies: list[Any], origin: str) -> Headers:
    said = {
        f"{_ALLOW}methods": _first(policies, "allow_methods"),
        f"{_ALLOW}headers": _first(policies, "allow_headers"),
        "access-control-max-age": _first(policies, "max_age"),
    }
    others = tuple((name, value) for name, value in said.items() if value)
    return ((f"{_ALLOW}origin", origin), *_credentials(policies), *others)


def _credentials(policies: list[Any]) -> Headers:
    found = _first(policies, "allow_credentials")
    return ((f"{_ALLOW}credentials", "true"),) if found is not None and found.value else ()


def _enabled(run: Run, policies: list[Any]) -> bool:
    """The most specific one says, whether it says anything or not."""
    first = policies[0]
    return not first.HasField("filter_enabled") or run.met(first.filter_enabled, stable=False)


def _first(policies: list[Any], field: str) -> Any:
    """The value of the most specific policy that has one."""
    for policy in policies:
        descriptor = policy.DESCRIPTOR.fields_by_name[field]
        value = getattr(policy, field)
        if value if descriptor.message_type is None or descriptor.is_repeated else policy.HasField(field):
            return value
    return None
