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
    readable = _readable(policies, origin) if allowed else ()
    if request.method == "OPTIONS" and request.header(_METHOD):
        forward = _first(policies, "forward_not_matching_preflights")
        if allowed or not (forward is None or forward.value):
            return True, _preflight(policies) + readable
    return False, readable and readable + _credentials(policies)


def _readable(policies: list[Any], origin: str) -> Headers:
    """For whom the answer is."""
    exposed = _first(policies, "expose_headers")
    return ((f"{_ALLOW}origin", origin), *((("access-control-expose-headers", exposed),) if exposed else ()))


def _preflight(policies: list[Any]) -> Headers:
    """What may be asked; also of an origin for which no answer is."""
    said = {
        f"{_ALLOW}methods": _first(policies, "allow_methods"),
        f"{_ALLOW}headers": _first(policies, "allow_headers"),
        "access-control-max-age": _first(policies, "max_age"),
    }
    return (*_credentials(policies), *((name, value) for name, value in said.items() if value))


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
