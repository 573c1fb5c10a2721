"""The demo's picture is consistent in itself."""

from controlplane.demo.topology import BLOCKS, Plane, bound, objects, service_definition, topology


def test_nothing_is_bound_twice_and_all_of_it_is_loopback():
    for block in BLOCKS:
        places = bound(topology(block))
        assert len(places) == len(set(places))
        assert all(address.startswith("127.0.0.") for address, _ in places)
        assert all(1 <= int(address.rsplit(".", 1)[1]) <= 254 for address, _ in places)


def test_two_demos_share_no_address():
    first, second = (set(bound(topology(block))) for block in BLOCKS[:2])
    assert not first & second


def test_every_upstream_is_a_service_that_exists():
    services = {(o["metadata"]["name"], o["spec"]["ports"][0]["port"]) for o in objects() if o["kind"] == "Service"}
    for host in topology(10).hosts:
        for upstream in service_definition(host)["upstreams"]:
            assert (upstream["service"], upstream["port"]) in services


def test_every_host_may_stand_behind_its_service():
    accounts = {o["metadata"]["name"]: o["spec"]["serviceAccounts"] for o in objects() if o["kind"] == "Service"}
    for host in topology(10).hosts:
        assert host.identity.split("/")[1] in accounts[host.service]


def test_a_control_plane_at_an_address_of_ipv6_is_told_from_its_port():
    plane = Plane("cp-1", "gate-1", "fd12::1")
    assert (plane.url, plane.gate_address) == ("https://[fd12::1]:8443", "[fd12::1]:2390")
