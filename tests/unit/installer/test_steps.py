"""What an installation decides: pure."""

import dataclasses
import hashlib
import json
import socket

import pytest

from agent.installer.facts import is_here, taken
from agent.installer.main import options_of, parse
from agent.installer.model import Facts, InstallError, Options, Service
from agent.installer.offer import choose, read_manifest
from agent.installer.preflight import MAX_SKEW, early_faults, faults, notes
from agent.installer.steps import agent_yaml, parse_service, removal, stale, things
from agent.settings import Settings, check
from mesh import codec
from mesh.model import GatewaySpec

UNITS = ("holdfast-agent.service", "holdfast-envoy.service", "holdfast-host.service")


def entry(path, kind, name, **more):
    return {"path": path, "sha256": "a" * 64, "size": 1000, "kind": kind, "name": name, "version": "1.0", **more}


def entries():
    return [
        entry("wheels/holdfast-1.0-py3-none-any.whl", "wheel", "holdfast"),
        entry("wheels/pip-26-py3-none-any.whl", "wheel", "pip"),
        entry("wheels/yarl-1-cp311-cp311-x.whl", "wheel", "yarl", arch="x86_64", python="3.11"),
        entry("wheels/yarl-1-cp312-cp312-x.whl", "wheel", "yarl", arch="x86_64", python="3.12"),
        entry("wheels/yarl-1-cp311-cp311-a.whl", "wheel", "yarl", arch="aarch64", python="3.11"),
        entry("bin/x86_64/envoy", "binary", "envoy", arch="x86_64"),
        entry("install.py", "script", "install.py"),
        *(entry(f"units/{name}", "unit", name) for name in UNITS),
    ]


def raw(files=None, **more):
    return json.dumps({"format": 1, "version": "1.0", "files": entries() if files is None else files, **more}).encode()


def offer(arch="x86_64", python=(3, 11), files=None):
    return choose(*read_manifest(raw(files)), arch=arch, python=python)


OPTIONS = Options(node="web-1", controlplanes=("https://cp:8443",))
FACTS = Facts(address="10.0.0.7", skew=0.5, free={"/opt/holdfast": (1, 1 << 40), "/var/lib": (1, 1 << 40)})


def test_a_host_takes_what_fits_it():
    chosen = offer()
    assert sorted(item.path for item in chosen.wheels) == [
        "wheels/holdfast-1.0-py3-none-any.whl", "wheels/pip-26-py3-none-any.whl", "wheels/yarl-1-cp311-cp311-x.whl",
    ]  # fmt: skip
    assert {unit.name for unit in chosen.units} == set(UNITS)


@pytest.mark.parametrize(
    ("arch", "python", "said"),
    [
        ("x86_64", (3, 13), "wheels for Python 3.13 (it has: 3.11, 3.12)"),
        ("aarch64", (3, 11), "Envoy for aarch64 (holdfast dist build --envoy-aarch64 FILE)"),
    ],
)
def test_what_a_folder_lacks_for_a_host_is_named(arch, python, said):
    with pytest.raises(InstallError) as caught:
        offer(arch, python)
    assert said in str(caught.value)


def test_all_that_is_missing_is_named_at_once():
    with pytest.raises(InstallError) as caught:
        offer(files=[entry("wheels/pip-26-py3-none-any.whl", "wheel", "pip")])
    for name in (*UNITS[:2], "install.py", "wheel of holdfast", "Envoy"):
        assert name in str(caught.value)


@pytest.mark.parametrize(
    "bad",
    [
        b"", b"[]", b"{}", raw(format=2), raw(version="../.."), raw([entry("../../etc/passwd", "unit", "x")]),
        raw([entry("/etc/passwd", "unit", "x")]), raw([entry("a/../b", "unit", "x")]),
        raw([entry("a", "unit", "x", size=-1)]),
        raw([entry("a", "unit", "x", sha256="A" * 64)]), raw([{"path": "a"}]), b"[" * 100_000,
        raw([{**entry("bin/envoy", "binary", "envoy"), "version": "../../../etc"}]),
    ],
)  # fmt: skip
def test_a_manifest_that_is_none_or_leads_elsewhere_is_refused(bad):
    with pytest.raises(InstallError, match="cannot be used"):
        read_manifest(bad)


def test_a_manifest_with_another_hash_is_refused():
    good = raw()
    assert read_manifest(good, hashlib.sha256(good).hexdigest())[0] == "1.0"
    with pytest.raises(InstallError, match="not the one that this line was made for"):
        read_manifest(good, "0" * 64)


def test_a_good_host_has_no_faults():
    assert faults(FACTS, OPTIONS, offer()) == []
    assert notes(FACTS) == []


FAULTS = {
    "root": ({"root": False}, "this needs root"),
    "python": ({"python": (3, 9)}, "Python 3.9 is too old"),
    "library": ({"python_faults": ("venv",)}, "venv is missing in this Python"),
    "arch": ({"arch": "riscv64"}, "this machine is riscv64"),
    "systemd": ({"systemd": False}, "systemd does not run here"),
    "unreachable": ({"unreachable": "the control plane at x cannot be reached"}, "cannot be reached"),
    "behind": ({"skew": 3600.0}, "this host's clock is 60 min behind the control plane's"),
    "ahead": ({"skew": -7200.0}, "this host's clock is 2.0 h ahead of the control plane's"),
    "ports": ({"taken": ("15443 (mTLS)",)}, "port 15443 (mTLS) is taken"),
    "foreign": ({"there": frozenset({"/etc/systemd/system/holdfast-agent.service"})}, "another installation"),
    "login": ({"logins": ("holdfast",)}, "the account holdfast is there, and can be logged in to"),
    "half": ({"halves": (("holdfast", "group"),)}, "the group holdfast is there, and no user of that name"),
    "renamed": ({"node": "web-2"}, "says that this host is web-2, not web-1"),
    "bind": ({"unbindable": True}, "is not an address of this host, so Envoy cannot listen there"),
    "disk": ({"free": {"/opt/holdfast": (1, 1 << 20), "/var/lib": (1, 1 << 20)}}, "1 MiB free"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_in_the_way_is_told(name):
    change, said = FAULTS[name]
    [found] = faults(dataclasses.replace(FACTS, **change), OPTIONS, offer())
    assert said in found


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("unit", "/etc/systemd/system/holdfast-envoy.service"),
        ("unit", "/etc/systemd/system/holdfast-host.service"),
        ("link", "/usr/local/bin/holdfast-agent"),
    ],
)
def test_what_somebody_else_put_there_is_not_replaced(kind, path):
    facts = dataclasses.replace(FACTS, there=frozenset({path}))
    [found] = faults(facts, OPTIONS, offer())
    assert found.startswith(path + " is there and was not made by this installer")
    assert faults(dataclasses.replace(facts, recorded=frozenset({kind + " " + path})), OPTIONS, offer()) == []


def test_everything_is_told_at_once():
    change = {key: value for fields, _ in FAULTS.values() for key, value in fields.items()}
    found = faults(dataclasses.replace(FACTS, **change), OPTIONS, offer())
    assert len(found) == len(FAULTS) - 1  # a clock is behind or ahead
    assert len(early_faults(dataclasses.replace(FACTS, **change))) == 5


def test_a_clock_within_the_bound_is_no_fault():
    assert faults(dataclasses.replace(FACTS, skew=MAX_SKEW), OPTIONS, offer()) == []


def test_two_places_on_one_disk_need_room_together():
    size = offer().envoy.size + sum(item.size for item in offer().wheels)
    room = 64 * 2**20 + 5 * size  # enough for either of them
    apart = dataclasses.replace(FACTS, free={"/opt/holdfast": (1, room), "/var/lib": (2, room)})
    together = dataclasses.replace(FACTS, free={"/opt/holdfast": (1, room), "/var/lib": (1, room)})
    assert faults(apart, OPTIONS, offer()) == []
    assert len(faults(together, OPTIONS, offer())) == 1


def test_a_host_without_nftables_is_a_note_and_no_fault():
    without = dataclasses.replace(FACTS, nftables=False)
    assert faults(without, OPTIONS, offer()) == []
    assert "called by name" in notes(without)[0]


def test_things_come_in_an_order_in_which_each_can_be_made():
    found = things(OPTIONS, offer(), [(name, "text") for name in UNITS], FACTS)
    names = [thing.name for thing in found]
    assert names.index("holdfast") < names.index("/var/lib/holdfast")
    assert names.index("/opt/holdfast") < names.index("/opt/holdfast/1.0") < names.index("/opt/holdfast/current")
    assert names.index("/opt/holdfast/current") < names.index("/usr/local/bin/holdfast-agent")
    assert [thing.kind for thing in found][-3:] == ["unit"] * 3
    assert len({thing.key for thing in found}) == len(found)


def test_an_upgrade_leaves_the_settings_alone():
    found = things(dataclasses.replace(OPTIONS, upgrade=True), offer(), [], FACTS)
    assert not [thing for thing in found if thing.kind == "file"]


def test_settings_that_are_given_are_written_as_they_are():
    text = "node: web-1\naddress: 10.0.0.7\ngates: [10.0.0.1:15379]\n"
    found = things(dataclasses.replace(OPTIONS, settings=text), offer(), [], FACTS)
    assert [thing.text for thing in found if thing.name == "/etc/holdfast/agent.yaml"] == [text]


def test_the_settings_that_are_written_are_good_settings():
    options = dataclasses.replace(
        OPTIONS,
        address="fd00::7",
        controlplanes=("https://[fd00::1]:8443",),
        services=(Service("web", "shop", "w", 80, "http"),),
    )
    texts = {thing.name: thing.text for thing in things(options, offer(), [], FACTS) if thing.kind == "file"}
    from mesh.model import ServiceDefinition

    settings = codec.convert_strict(Settings, codec.load_yaml(texts["/etc/holdfast/agent.yaml"])[0])
    assert isinstance(settings, Settings)
    assert check(settings) == ()
    assert (settings.node, settings.address) == ("web-1", "fd00::7")
    definition = codec.convert_strict(ServiceDefinition, codec.load_yaml(texts["/etc/holdfast/services.d/web.yaml"])[0])
    assert isinstance(definition, ServiceDefinition)
    assert (definition.identity, definition.ports[0].port, definition.ports[0].protocol) == ("shop/w", 80, "http")


@pytest.mark.parametrize(
    ("text", "identities", "expected"),
    [
        ("web:80", (), Service("web", "default", "web", 80, "tcp")),
        ("shop/web:80:http", (), Service("web", "shop", "web", 80, "http")),
        ("web:80", ("shop/web", "shop/api"), Service("web", "shop", "web", 80, "tcp")),
        ("web:80", ("shop/front",), Service("web", "shop", "front", 80, "tcp")),
        ("other/web:80", ("shop/front",), Service("web", "other", "web", 80, "tcp")),
    ],
)
def test_a_service_takes_the_identity_that_fits(text, identities, expected):
    assert parse_service(text, identities) == expected


@pytest.mark.parametrize("text", ["web", "web:", "web:0", "web:99999", "web:80:udp", ":80", "web:80:http:x", "web:x"])
def test_what_is_no_service_is_told(text):
    with pytest.raises(ValueError, match=r"is not|is one of"):
        parse_service(text, ())


def test_what_was_made_goes_in_the_opposite_order():
    recorded = [
        "user holdfast",
        "folder /etc/holdfast",
        "file /etc/holdfast/agent.yaml",
        "unit /etc/systemd/system/x.service",
    ]
    assert removal(recorded, keep_config=False) == [tuple(key.split(" ", 1)) for key in reversed(recorded)]
    assert [name for _, name in removal(recorded, keep_config=True)] == ["/etc/systemd/system/x.service", "holdfast"]


def test_the_version_in_use_and_the_one_before_are_kept():
    recorded = ["tree /opt/holdfast/1", "tree /opt/holdfast/2", "tree /opt/holdfast/3", "link /opt/holdfast/current"]
    assert stale(recorded, ["/opt/holdfast/3"], ["/opt/holdfast/2"]) == ["tree /opt/holdfast/1"]


def test_a_tree_that_is_half_gone_is_not_whole(tmp_path, monkeypatch):
    """A removal that is killed in a tree leaves no mark there that says that it is whole."""
    from agent.installer import system
    from agent.installer.model import Thing

    tree = tmp_path / "1.0"
    (tree / "bin").mkdir(parents=True)
    (tree / system.STAMP).write_text("x")
    thing = Thing("tree", str(tree), stamp="x")
    assert system.is_there(thing, {})

    def killed(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(system.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        system.take_away("tree", str(tree))
    assert tree.is_dir()
    assert not system.is_there(thing, {})


@pytest.mark.parametrize(
    ("address", "elsewhere", "listens_at"),
    [
        ("203.0.113.9", True, "0.0.0.0"),
        ("2001:db8::9", True, "::"),
        ("10.0.0.7", False, "10.0.0.7"),
        ("2001:db8::9", False, "::"),
    ],
)
def test_behind_nat_envoy_listens_at_all_addresses(address, elsewhere, listens_at):
    facts = dataclasses.replace(FACTS, elsewhere=elsewhere)
    found = things(dataclasses.replace(OPTIONS, address=address), offer(), [], facts)
    (text,) = [thing.text for thing in found if thing.name == "/etc/holdfast/agent.yaml"]
    settings = codec.convert_strict(Settings, codec.load_yaml(text)[0])
    assert check(settings) == ()
    assert (settings.address, settings.listens_at) == (address, listens_at)
    assert bool(settings.bind) == elsewhere


def test_a_gateway_and_where_it_listens_are_in_its_settings():
    options = dataclasses.replace(OPTIONS, address="203.0.113.9", bind="10.0.0.7", gateway=True)
    found = things(options, offer(), [], dataclasses.replace(FACTS, elsewhere=True))
    (text,) = [thing.text for thing in found if thing.name == "/etc/holdfast/agent.yaml"]
    settings = codec.convert_strict(Settings, codec.load_yaml(text)[0])
    assert isinstance(settings, Settings)
    assert check(settings) == ()
    assert (settings.address, settings.bind, settings.gateway) == ("203.0.113.9", "10.0.0.7", GatewaySpec())
    assert "gateway" not in agent_yaml(OPTIONS, "10.0.0.7")


def test_a_port_that_somebody_else_holds_is_named():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        port = held.getsockname()[1]
        assert list(taken(((port, "", "gateway"),))) == [f"{port} (gateway)"]
    assert list(taken(((port, "", "gateway"),))) == []


def test_a_file_of_settings_says_what_the_line_says(capsys, tmp_path):
    path = tmp_path / "agent.yaml"
    path.write_text("node: gw-1\n")
    common = ["--dist", ".", "--controlplane", "https://cp:8443", "--node", "gw-1"]
    given = parse([*common, "--gateway", "--bind", "10.0.0.7"])
    assert (options_of(given).gateway, options_of(given).bind) == (True, "10.0.0.7")
    settings = ["--settings", str(path)]
    for name, words in (("gateway", ["--gateway"]), ("bind", ["--bind", "10.0.0.7"])):
        with pytest.raises(SystemExit):
            parse([*common, *settings, *words])
        assert f"{name} is not in the file" in capsys.readouterr().err
    path.write_text("node: gw-1\nbind: 10.0.0.7\ngateway: {port: 16000}\n")
    assert parse([*common, *settings, "--gateway", "--bind", "10.0.0.7"]).settings == path


def test_the_host_knows_which_address_is_its_own():
    assert is_here("127.0.0.1")
    assert not is_here("192.0.2.200")
    assert not is_here("no address")
