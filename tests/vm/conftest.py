"""What the tests on hosts share. Without root they fail: a suite that passes over everything proves nothing."""

import signal
import sys
from collections.abc import Iterator

import pytest

from tests.vm.fleet import Fleet
from tests.vm.shell import check_machine


def pytest_sessionstart(session: pytest.Session) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # fixtures tidy up then, too


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/vm" in item.nodeid:
            item.add_marker(pytest.mark.vm)


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    """A run of its own for a test module; hosts are added by who needs them."""
    check_machine()
    with Fleet() as fleet:
        yield fleet
