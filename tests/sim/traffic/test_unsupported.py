"""What is not simulated is an error that names the field; it is never passed over in silence."""

from typing import Any

import pytest

from mesh import pb
from mesh.compile import Snapshot
from mesh.compile.parts import network_filter
from mesh.compile.simulate import Unsupported, call
from mesh.compile.simulate.fields import _READ, _UNDERSTOOD, known
from tests.sim.traffic.build import LISTENER, added, ask, config, filter_of, manager, match, snapshot, to
from tests.support.snapshots import listener_on, snapshot_of

FIELDS = [
    (kind, field.name)
    for kind in _READ
    for field in kind.DESCRIPTOR.fields
    if field.name not in _UNDERSTOOD[kind.DESCRIPTOR.full_name]
]


def _set(message: Any, name: str) -> None:
    """To anything but nothing."""
    field = message.DESCRIPTOR.fields_by_name[name]
    value = getattr(message, name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        value["x"] if hasattr(value, "get_or_create") else value.update({"x": "x"})
    elif field.message_type is not None:
        value.add() if field.is_repeated else value.SetInParent()
    else:
        one: Any = "x" if field.cpp_type == field.CPPTYPE_STRING else 1
        one = b"x" if field.type == field.TYPE_BYTES else one
        if field.is_repeated:
            value.append(one)
        else:
            setattr(message, name, one)


@pytest.mark.parametrize(
    ("kind", "name"), FIELDS, ids=lambda value: getattr(getattr(value, "DESCRIPTOR", None), "name", value)
)
def test_a_field_that_is_not_understood(kind: Any, name: str):
    message = kind()
    _set(message, name)
    with pytest.raises(Unsupported) as found:
        known(message)
    assert found.value.field == f"{kind.DESCRIPTOR.full_name}.{name}"


@pytest.mark.parametrize("kind", _READ, ids=lambda kind: kind.DESCRIPTOR.full_name)
def test_the_table_names_fields_that_there_are(kind: Any):
    assert _UNDERSTOOD[kind.DESCRIPTOR.full_name] <= set(kind.DESCRIPTOR.fields_by_name)


def test_a_field_of_a_later_envoy():
    message = pb.Route.FromString(pb.encode(pb.Route(name="x")) + b"\xfa\x3f\x01a")
    with pytest.raises(Unsupported, match="protos do not have"):
        known(message)


def test_a_message_of_another_kind():
    with pytest.raises(Unsupported, match="Cluster"):
        known(pb.Cluster())


def of_manager(*filters: pb.HttpFilter, **fields: Any) -> Snapshot:
    return snapshot(config(to()), manager(filters, **fields))


HCM = pb.HttpConnectionManager
STRANGE = pb.HttpFilter(name="x", typed_config=pb.any_of(pb.Struct()))
FAULT = pb.HttpFault(abort={"header_abort": {}, "percentage": {"numerator": 100}})
OTHER_KIND = {"typed_per_filter_config": {"fault": pb.any_of(pb.RBACPerRoute())}}


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("scoped_routes", of_manager(scoped_routes={"name": "x"})),
        ("Struct", of_manager(STRANGE)),
        ("suppress_envoy_headers", of_manager(filter_of("router", pb.Router()))),
        ("skip_xff_append", of_manager(use_remote_address=pb.true())),
        ("forward_client_cert_details", of_manager(forward_client_cert_details=HCM.FORWARD_ONLY)),
        ("escaped_slashes", of_manager(path_with_escaped_slashes_action=HCM.UNESCAPE_AND_REDIRECT)),
        ("rules", of_manager(filter_of("rbac", pb.HttpRbac(rules={})))),
        ("header_abort", of_manager(filter_of("fault", FAULT))),
        ("per_filter", snapshot(config(to(route=OTHER_KIND)), manager([filter_of("fault", pb.HttpFault())]))),
        ("connect_matcher", snapshot(config(to("one", pb.RouteMatch(connect_matcher={}))))),
        ("cluster_header", snapshot(config(pb.Route(match=match(), route={"cluster_header": "x"})))),
        ("terminal", snapshot(config(to(hash_policy=[{"terminal": True}])))),
        ("range_match", snapshot(config(to("one", match(headers=[{"name": "x", "range_match": {"end": 1}}]))))),
        ("require_tls", snapshot(config(to(), host_require_tls="ALL"))),
        ("non_forwarding_action", snapshot(config(pb.Route(match=match(), non_forwarding_action={})))),
        ("command", snapshot(config(to(route={"request_headers_to_add": [added("x", "%REQ(y)%")]})))),
        ("regex", snapshot(config(to("one", match(safe_regex={"regex": "(?=x)"}))))),
        ("x_forwarded_host", snapshot(config(to(append_x_forwarded_host=True, host_rewrite_literal="x")))),
        ("listener.v3.Filter", snapshot_of(listener_on(LISTENER, 1, network_filter("x", pb.Struct())))),
        ("no filter ends", snapshot_of(listener_on(LISTENER, 1))),
    ],
)
def test_a_configuration_that_is_not_simulated(said: str, found: Snapshot):
    with pytest.raises(Unsupported, match=said):
        ask(found)


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("CONNECT", "/", ()), ("FOO", "/", ()), ("OPTIONS", "*", ()), ("GET", "/", [("upgrade", "websocket")]),
        ("GET", "/", [("expect", "100-continue")]), ("GET", "/", [("connection", "x-a")]),
    ],
)  # fmt: skip
def test_a_request_that_is_not_simulated(method: str, path: str, headers: Any):
    with pytest.raises(Unsupported):
        call(snapshot(config(to())), LISTENER, method, path, headers, draw=0)


@pytest.mark.parametrize("name", [":path", "Host"])
def test_what_has_an_argument_of_its_own_is_no_header(name: str):
    with pytest.raises(ValueError, match="argument of its own"):
        ask(snapshot(config(to())), "/", [(name, "x")])


def test_what_is_not_met_is_not_asked():
    """A virtual host for others may have whatever it likes."""
    routes = config(to())
    routes.virtual_hosts.append(pb.VirtualHost(name="x", domains=["x"], require_tls="ALL"))
    assert ask(snapshot(routes), host="y").cluster == "one"
    with pytest.raises(Unsupported):
        ask(snapshot(routes), host="x")
