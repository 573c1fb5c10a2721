"""The control plane under test logs in this process: keep that out of what the CLI prints."""

import pytest
import structlog


def _drop(*_: object) -> None:
    raise structlog.DropEvent


@pytest.fixture(autouse=True)
def quiet():
    before = structlog.get_config()
    structlog.configure(processors=[_drop], cache_logger_on_first_use=False)
    yield
    structlog.configure(**before)
