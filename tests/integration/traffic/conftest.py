"""One rig for a module: routes and policies come and go on it."""

from collections.abc import Iterator

import pytest

from tests.integration.traffic.rig import Rig, rig


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with rig(tmp_path_factory.mktemp("traffic")) as found:
        yield found
