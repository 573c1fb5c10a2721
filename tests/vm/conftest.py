"""What the tests on hosts share. Without root they fail: a suite that passes over everything proves nothing."""

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from controlplane.distribution.folder import Order
from controlplane.distribution.folder import build as build_dist
from tests.vm.fleet import Fleet
from tests.vm.plane import Plane
from tests.vm.shell import check_machine
from tests.vm.shop import Shop


def pytest_sessionstart(session: pytest.Session) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # fixtures tidy up then, too


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/vm" in item.nodeid:
            item.add_marker(pytest.mark.vm)


@pytest.fixture(scope="module")
def fleet(request: pytest.FixtureRequest) -> Iterator[Fleet]:
    """A run of its own for a test module; hosts are added by who needs them. With `IPV6 = True` they have that, too."""
    check_machine()
    with Fleet(ipv6=getattr(request.module, "IPV6", False)) as fleet:
        yield fleet


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A distribution folder for hosts like these."""
    folder = tmp_path_factory.mktemp("dist") / "dist"
    build_dist(folder, Order(arches=("x86_64",), pythons=("3.11",), servers=False), lambda _: None)
    return folder


@pytest.fixture(scope="module")
def plane(fleet: Fleet, dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    """A control plane for the module's own hosts."""
    # A short name: unix sockets lie deep in it.
    with Plane(tmp_path_factory.mktemp("p"), fleet.gateway, dist) as plane:
        yield plane


@pytest.fixture(scope="session")
def _shop(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    check_machine()
    with Fleet() as fleet, Plane(tmp_path_factory.mktemp("p"), fleet.gateway, dist, bao=True) as plane:
        shop = Shop(fleet, plane)
        shop.open()
        yield shop


@pytest.fixture
def shop(_shop: Shop) -> Shop:
    """Two hosts that serve, and an OpenBao behind their control plane; one fleet for all modules: boots cost."""
    _shop.answers()
    return _shop
