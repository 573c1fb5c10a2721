"""Tables and descriptions of objects."""

import pytest

from controlplane.cli.views import COLUMNS, age, describe, rows, span
from mesh.model import KINDS

SERVICE = {
    "apiVersion": "holdfast.dev/v1",
    "kind": "Service",
    "metadata": {
        "name": "api",
        "namespace": "shop",
        "labels": {"b": "2", "a": "1"},
        "creationTimestamp": "2026-11-21T07:00:00Z",
        "resourceVersion": "8",
    },
    "spec": {"ports": [{"port": 80, "protocol": "http", "targetPort": "http"}], "serviceAccounts": ["api"]},
}
SEVEN = 1795244400.0  # 2026-11-21T07:00:00Z


def test_every_kind_has_columns():
    assert COLUMNS.keys() == KINDS.keys()


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("wide", [False, True])
def test_an_object_with_nothing_in_it_can_be_shown(kind, wide):
    titles, cells = rows(kind, [{"kind": kind, "metadata": {"name": "x"}}], wide=wide, now=0)
    assert len(titles) == len(cells[0])
    assert all(isinstance(cell, str) for cell in cells[0])


def test_a_service():
    titles, cells = rows("Service", [SERVICE], wide=False, now=SEVEN + 61)
    assert dict(zip(titles, cells[0], strict=True)) == {
        "NAMESPACE": "shop",
        "NAME": "api",
        "PORTS": "80->http/http",
        "ACCOUNTS": "api",
        "AGE": "1m1s",
    }
    titles, cells = rows("Service", [SERVICE], wide=True, now=SEVEN)
    assert dict(zip(titles, cells[0], strict=True))["LABELS"] == "a=1,b=2"


def test_a_policy_says_who_may_call():
    policy = {
        "metadata": {"name": "p", "namespace": "shop"},
        "spec": {
            "target": {"service": "api"},
            "rules": [{"from": [{"principals": ["shop/web"]}, {"namespaces": ["ops"]}], "ports": [80]}, {}],
        },
    }
    titles, cells = rows("AuthorizationPolicy", [policy], wide=False, now=0)
    found = dict(zip(titles, cells[0], strict=True))
    assert (found["ACTION"], found["SERVICE"], found["FROM"]) == ("Allow", "api", "shop/web,ops/*:80; anybody")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0s"), (59, "59s"), (60, "1m0s"), (3599, "59m"), (7260, "2h1m"), (86400 * 3 + 5, "3d")],
)
def test_span(seconds, text):
    assert span(seconds) == text


def test_age_of_nothing_and_of_nonsense():
    assert (age("", 0), age("yesterday", 0)) == ("-", "?")


def test_describe_shows_everything_and_no_whole_certificate():
    bundle = {
        "apiVersion": "holdfast.dev/v1",
        "kind": "TrustBundle",
        "metadata": {"name": "d"},
        "spec": {"trustDomain": "d", "roots": ["-----BEGIN CERTIFICATE-----\nabc\n"], "empty": [], "none": None},
    }
    text = "\n".join(describe(bundle))
    assert "trustDomain: d" in text
    assert "abc" not in text
    assert "(32 characters)" in text
    assert "    - port: 80" in "\n".join(describe(SERVICE))
