"""`holdfast explain`: what is asked, and how the answer reads."""

import pytest

from controlplane.cli.errors import CliError
from controlplane.cli.explain import header, lines, question

V1 = "v1.shop:80"
WANTED = {"name": "web", "namespace": "shop", "service": "api", "serviceNamespace": "shop", "port": 80}


@pytest.mark.parametrize(
    "words",
    [("web.shop", "api.shop:80"), ("web.shop -> api.shop:80",), ("web.shop", "->", "api.shop:80"), ("web", "api:80")],
)
def test_both_are_named_in_any_form(words: tuple[str, ...]):
    assert question(words, "shop") == WANTED


@pytest.mark.parametrize("words", [("web",), ("a", "b", "c"), ("web", "api:http"), ("web", "api:0")])
def test_what_names_no_call(words: tuple[str, ...]):
    with pytest.raises(CliError):
        question(words, "shop")


def test_headers():
    assert header("version: two") == ("version", "two")
    for bad in ("version", ": two"):
        with pytest.raises(CliError):
            header(bad)


def test_the_answer_names_routes_endpoints_and_rules():
    found = {
        "caller": {
            "node": "web-1", "spiffeId": "spiffe://d/ns/shop/sa/web", "listen": "127.0.0.1:9000", "notAfter": 7200.0,
            "outcomes": [
                {
                    "share": 0.9, "verdict": "to", "service": "v1.shop:80", "route": "HTTPRoute/shop/api/split/0",
                    "path": "/x", "host": "api.shop", "timeoutSeconds": 3.0, "retries": 2, "retryOn": ["reset"],
                    "objects": ["HTTPRoute shop/api"],
                },
                {"share": 0.1, "verdict": "answer", "status": 500, "words": "there is no Service v2.shop"},
            ],
            "endpoints": [
                {"service": V1, "instance": "v1-a", "node": "a", "address": "10.0.0.1:15443", "health": "healthy"},
                {"service": V1, "instance": "v1-b", "node": "b", "address": "10.0.0.2:15443", "health": "lost"},
            ],
        },
        "callees": [
            {"service": V1, "node": "a", "notAfter": 3600.0, "outcomes": [{"verdict": "deny", "rule": "default-deny"}]},
            {"service": V1, "node": "b", "error": "offline"},
        ],
    }  # fmt: skip
    text = "\n".join(lines(found, {**WANTED, "method": "GET", "path": "/x"}, 0.0))
    for said in (
        "web.shop on web-1 calls api.shop", "certificate for 2.0 h more", "90% goes to v1.shop:80",
        "HTTPRoute shop/api, rule split, match 0", "within 3 s; 2 more tries on reset", "10% gets answer 500",
        "v1-a on a (10.0.0.1:15443) is healthy; refuses it by default-deny",
        "does not say whether it lets the call in: offline",
    ):  # fmt: skip
        assert said in text, said


def test_a_service_of_another_cluster_is_named_with_it():
    asked = question(("web.shop", "api.shop.east:80"), "shop")
    assert asked == {**WANTED, "service": "api.east"}
    found = {
        "caller": {
            "node": "web-1", "spiffeId": "spiffe://west.test/ns/shop/sa/web", "listen": "127.0.0.1:9000",
            "outcomes": [{"share": 1.0, "verdict": "to", "service": "api.shop.east:80"}],
            "endpoints": [
                {
                    "service": "api.shop.east:80", "instance": "gw-1", "node": "gw-1", "address": "192.0.2.1:15444",
                    "health": "healthy", "cluster": "east", "sni": "80.api.shop.east.mesh",
                    "identities": ["spiffe://east.test/ns/shop/sa/api"],
                },
            ],
        },
        "callees": [],
    }  # fmt: skip
    text = "\n".join(lines(found, {**asked, "method": "GET", "path": "/"}, 0.0))
    for said in (
        "web.shop on web-1 calls api.shop.east", "it leads to cluster east", "as 80.api.shop.east.mesh",
        "nobody may answer but spiffe://east.test/ns/shop/sa/api", "policies of east let in",
    ):  # fmt: skip
        assert said in text, said


def test_a_caller_of_another_cluster_is_named_by_its_identity():
    who = "spiffe://west.test/ns/shop/sa/web"
    asked = question((who, "api.shop:80"), "default")
    assert asked == {"caller": who, "namespace": "default", "service": "api", "serviceNamespace": "shop", "port": 80}
    found = {
        "caller": {
            "node": "", "spiffeId": who, "listen": "", "outcomes": [{"share": 1.0, "verdict": "to", "service": V1}],
            "endpoints": [
                {"service": V1, "instance": "v1-a", "node": "a", "address": "10.0.0.1:15443", "health": "healthy"},
            ],
        },
        "callees": [{"service": V1, "node": "a", "outcomes": [{"verdict": "to", "rule": "shop/from-west/web"}]}],
    }  # fmt: skip
    text = "\n".join(lines(found, {**asked, "method": "GET", "path": "/"}, 0.0))
    assert f"{who} calls api.shop from another cluster" in text
    assert "v1-a on a (10.0.0.1:15443) is healthy; lets it in by shop/from-west/web" in text
