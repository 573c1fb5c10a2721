"""Which of the wanted callers this host knows."""

from pathlib import Path

import pytest

from agent.hostd import system
from agent.hostd.wanted import Caller


@pytest.fixture
def cgroups(tmp_path: Path) -> Path:
    (tmp_path / "cgroup.controllers").touch()
    return tmp_path


def known(cgroups: Path, *units: str) -> dict[str, int]:
    (resolved,), problems = system.resolve((Caller("shop/web", 16400, units=units),), cgroups)
    assert problems == ()
    return dict(resolved.cgroups)


@pytest.mark.parametrize(
    ("unit", "place"),
    [
        ("web.service", "system.slice/web.service"),
        # systemd puts each unit of a template into a slice of the template's own.
        ("my-web@1.service", r"system.slice/system-my\x2dweb.slice/my-web@1.service"),
        ("web.service", "shop.slice/shop-front.slice/web.service"),
        ("web.service", "web.service"),
    ],
)
def test_a_unit_is_known_in_whatever_slice_it_runs(cgroups: Path, unit: str, place: str):
    (cgroups / place).mkdir(parents=True)
    (cgroups / "other.slice/other-x.slice").mkdir(parents=True)
    assert known(cgroups, unit) == {place: place.count("/") + 1}


@pytest.mark.parametrize(
    "place",
    [
        "user.slice/user-1000.slice/user@1000.service/app.slice/web.service",
        "system.slice/box.service/system.slice/web.service",
        "machine.slice/box.scope/web.service",
    ],
)
def test_what_a_user_or_a_container_calls_like_a_unit_is_not_that_unit(cgroups: Path, place: str):
    (cgroups / place).mkdir(parents=True)
    assert known(cgroups, "web.service") == {}
