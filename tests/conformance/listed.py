"""Gateway API's fields: the list that is kept here, and the same from the pinned module."""

from pathlib import Path
from typing import Any

import yaml

from tests.conformance import published, schema

POLICY = "TrafficPolicy"
LIST = Path(__file__).parent / "gateway_api.txt"


def fields() -> list[schema.Field]:
    """All that the table is about: Gateway API's, and those of our own kind."""
    return schema.read(LIST.read_text()) + schema.of_struct(POLICY)


def crd(channel: str, kind: str) -> dict[str, Any]:
    folder = published.fetch(published.SCHEMA).folder / "config/crd" / channel
    text = (folder / f"gateway.networking.k8s.io_{kind.lower()}s.yaml").read_text()
    found: dict[str, Any] = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return found


def from_module() -> str:
    """The list as the module has it."""
    version, found = published.pinned(published.SCHEMA)
    what = "Fields of Gateway API's specs, as its CRDs have them: kind, path, type, channel, values (!: experimental)."
    head = f"{what}\n{published.SCHEMA} {version} {found}"
    lists = [schema.of_crds(kind, *(crd(channel, kind) for channel in schema.CHANNELS)) for kind in schema.ROUTES]
    return schema.write(head, [field for listed in lists for field in listed])
