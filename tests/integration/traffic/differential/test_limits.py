"""Rate limits that the simulator says apply are those that a real Envoy counts: in the end no token is left."""

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest

from controlplane.demo.process import free_port
from mesh import pb
from mesh.compile.parts import http_filter
from mesh.compile.simulate import To, call
from tests.integration.traffic.differential import rig
from tests.sim.traffic.build import LISTENER, config, fraction, manager, match, to
from tests.support.snapshots import listener_on, snapshot_of

pytestmark = pytest.mark.real

CASES, SEED = 120, 1
TOKENS = 2
"""As many as rate limits that may take one each of the same bucket."""
HEADERS, VALUES = ("x-a", "x-b"), ("1", "2", "")


def few_tokens() -> dict[str, Any]:
    return {"max_tokens": TOKENS, "tokens_per_fill": pb.uint32(1), "fill_interval": pb.duration(3600)}


def action(rng: random.Random) -> dict[str, Any]:
    name = rng.choice(HEADERS)
    kind = rng.choice(["request_headers", "request_headers", "header_value_match", "generic_key"])
    if kind == "request_headers":
        return {kind: {"header_name": name, "descriptor_key": name, "skip_if_absent": rng.random() < 0.3}}
    if kind == "generic_key":
        return {kind: {"descriptor_value": "1", "descriptor_key": rng.choice(["", "k"])}}
    found = {"descriptor_value": "1", "descriptor_key": rng.choice(["", "k"]), "headers": [{"name": name}]}
    return {kind: found | ({"expect_match": pb.BoolValue(value=rng.random() < 0.5)} if rng.random() < 0.5 else {})}


def limit(rng: random.Random) -> pb.LocalRateLimit:
    found = pb.LocalRateLimit(stat_prefix="x", token_bucket=few_tokens())
    if rng.random() < 0.7:
        # Without bound; and Envoy wants all fills in step.
        found.token_bucket.max_tokens = found.token_bucket.tokens_per_fill.value = 2**32 - 1
    if rng.random() < 0.7:
        found.always_consume_default_token_bucket.value = rng.random() < 0.3
    for share in ("filter_enabled", "filter_enforced"):
        if rng.random() < 0.9:
            getattr(found, share).CopyFrom(fraction(rng.choice([100, 100, 100, 0])))
    for _ in range(rng.choice([0, 1, 1, 2])):
        found.rate_limits.add(actions=[action(rng) for _ in range(rng.randint(1, 2))])
    seen = set()
    for one in found.rate_limits:
        entries = tuple((key(each), rng.choice(VALUES)) for each in one.actions)
        if rng.random() < 0.8 and entries not in seen:  # Envoy takes each only once
            seen.add(entries)
            found.descriptors.add(entries=[{"key": k, "value": v} for k, v in entries], token_bucket=few_tokens())
    return found


def key(action: pb.RateLimit.Action) -> str:
    """As it is described by this action, if it finds something."""
    kind = action.WhichOneof("action_specifier")
    return getattr(action, kind).descriptor_key or {"header_value_match": "header_match"}.get(kind, kind)


def route(index: int, rng: random.Random) -> pb.Route:
    configs = {"limit": pb.any_of(limit(rng))}
    return to("one", match(path=f"/{index}"), route={"typed_per_filter_config": configs})


def test_no_difference(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    routes = config(*(route(index, rng) for index in range(CASES)))
    asks = [[(name, rng.choice(["1", "2"])) for name in HEADERS if rng.random() < 0.6] for _ in range(CASES)]

    async def compare() -> list[str]:
        echo, port, found = rig.Echo(tmp_path), free_port(), []
        filters = (http_filter("limit", pb.LocalRateLimit(stat_prefix="none")),)
        snapshot = snapshot_of(await echo.serve("one"), listener_on(LISTENER, port, manager(filters)), routes)
        async with rig.envoy(tmp_path, snapshot, [port]):
            client = rig.Client("127.0.0.1", port)
            for index, headers in enumerate(asks):
                said = call(snapshot, LISTENER, "GET", f"/{index}", headers, "h", draw=0)
                assert isinstance(said, To)
                for _ in range(TOKENS + 1):
                    last = await client.ask("GET", f"/{index}", "h", headers)
                assert isinstance(last, rig.Answer)
                if last.status != (429 if said.limits else 200):
                    tree = pb.to_json(routes.virtual_hosts[0].routes[index])
                    found.append(f"{headers}: {last.status}, said {said.limits}\n{tree}")
            client.close()
        await echo.close()
        return found

    found = asyncio.run(compare())
    assert not found, f"{len(found)} of {CASES}:\n" + "\n".join(found[:3])
