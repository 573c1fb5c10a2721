"""Whom a play may take out of service."""

from tests.unit.collection.test_members import endpoint


def test_services_that_no_other_host_would_serve(plugin):
    only_here = plugin("filter.services").only_here
    endpoints = [
        endpoint("web", "one"),
        endpoint("web", "two"),
        endpoint("api", "one"),
        endpoint("api", "two", health="draining"),
        endpoint("api", "one", "other"),
        endpoint("ill", "one", health="unhealthy"),
    ]
    assert only_here(endpoints, ["one"]) == ["other/api", "shop/api"]
    assert only_here(endpoints, ["two"]) == []
    # Both at once: nobody would be left, though each of them alone may go.
    assert only_here(endpoints, ["one", "two"]) == ["other/api", "shop/api", "shop/web"]
    assert only_here([], ["one"]) == []
