"""Which virtual host. Source: VirtualHost.domains ("domain search order"), RouteConfiguration."""

import pytest

from mesh import pb
from mesh.compile.simulate import NoRoute
from tests.sim.traffic.build import ask, manager, snapshot, to

DOMAINS = ["api.shop", "*.shop", "*.b.shop", "*-x.shop", "api.*", "api.s*", "*", "API.port:80"]


def hosts(*domains: str, **fields: object) -> pb.RouteConfiguration:
    """A host for each domain, with a route that is called as it."""
    found = pb.RouteConfiguration(name="routes", **fields)
    for domain in domains:
        found.virtual_hosts.append(pb.VirtualHost(name=domain, domains=[domain], routes=[to(route={"name": domain})]))
    return found


@pytest.mark.parametrize(
    ("host", "domain"),
    [
        ("api.shop", "api.shop"), ("API.Shop", "api.shop"), ("a.shop", "*.shop"), ("a.b.shop", "*.b.shop"),
        ("b.shop", "*.shop"), ("a-x.shop", "*-x.shop"), ("-x.shop", "*.shop"), (".shop", "*"), ("shop", "*"),
        ("api.other", "api.*"), ("api.some", "api.s*"), ("api.", "*"), ("", "*"), ("api.shop:80", "api.s*"),
        ("api.PORT:80", "API.port:80"), ("api.port", "api.*"),
    ],
)  # fmt: skip
def test_exact_then_the_longest_suffix_then_the_longest_prefix_then_all(host: str, domain: str):
    """A star stands for one character at least; case is none; a port is part of the name."""
    assert ask(snapshot(hosts(*DOMAINS)), host=host).route == domain


def test_no_host_is_for_it():
    assert isinstance(ask(snapshot(hosts("a")), host="b"), NoRoute)


@pytest.mark.parametrize(
    ("host", "found"), [("a:80", "a"), ("a:x", "a"), ("a", "a"), ("[::1]:80", "[::1]"), ("[::1]", "[::1]")]
)
def test_ports_can_be_ignored_and_still_go_upstream(host: str, found: str):
    """RouteConfiguration.ignore_port_in_host_matching."""
    verdict = ask(snapshot(hosts("a", "[::1]", ignore_port_in_host_matching=True)), host=host)
    assert (verdict.route, verdict.host) == (found, host)


@pytest.mark.parametrize(
    ("host", "found"), [("a:80", "a"), ("a:", "a:"), ("a:x", "a:x"), ("[::1]:80", "[::1]"), ("a:80:81", "a:80")]
)
def test_ports_can_be_stripped(host: str, found: str):
    """HttpConnectionManager.strip_any_host_port."""
    assert ask(snapshot(hosts("*"), manager(strip_any_host_port=True)), host=host).host == found
