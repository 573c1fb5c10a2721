"""Places on disk: what a host remembers of who is where."""

import stat
from pathlib import Path

from agent.places import Places
from mesh.model import Callers, ServiceDefinition, Upstream


def web(*services: str, listen: str = "") -> ServiceDefinition:
    return ServiceDefinition(
        name="web",
        callers=Callers(users=("web",)),
        upstreams=tuple(Upstream(service=s, port=80, listen=listen) for s in services),
    )


def test_a_restart_finds_the_same_places(tmp_path: Path):
    first = Places(tmp_path, lambda: 1.0)
    first.give([web("api", "db")], [15443])
    again = Places(tmp_path, lambda: 2.0)
    again.give([web("db")], [15443])
    assert again.addresses() == {"default/db": first.addresses()["default/db"]}
    assert again.ports() == first.ports()
    assert stat.S_IMODE((tmp_path / "virtual.json").stat().st_mode) == 0o600


def test_a_name_that_was_given_up_keeps_others_off_its_address(tmp_path: Path):
    places = Places(tmp_path, lambda: 1.0)
    places.give([web("api")], [])
    taken = places.addresses()["default/api"]
    places.give([web()], [])
    assert places.addresses() == {}
    assert taken in (tmp_path / "virtual.json").read_text()


def test_ports_of_definitions_are_not_given(tmp_path: Path):
    places = Places(tmp_path, lambda: 1.0)
    places.give([web("api")], [])
    port = places.ports()["default/web"]
    other = ServiceDefinition(name="x", upstreams=(Upstream(service="a", port=1, listen=f"127.0.0.1:{port}"),))
    places.give([web("api"), other], [])
    assert places.ports()["default/web"] not in {port, 0}


def test_damage_is_no_reason_to_have_no_names(tmp_path: Path):
    (tmp_path / "virtual.json").write_text('{"addresses": {"a/b": [')
    places = Places(tmp_path, lambda: 1.0)
    places.give([web("api")], [])
    assert places.addresses()
    assert places.problem == ""


def test_a_disk_that_takes_nothing_is_told_and_the_names_work(tmp_path: Path):
    folder = tmp_path / "gone"
    places = Places(folder, lambda: 1.0)
    places.give([web("api")], [])
    assert "virtual.json: No such file" in places.problem
    assert places.addresses()
    folder.mkdir()
    places.give([web("api")], [])
    assert places.problem == ""
