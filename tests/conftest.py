"""What all tests share: the switch that rewrites goldens, and how hypothesis runs."""

import pytest
from hypothesis import HealthCheck, settings

# Machines that run this are shared and slow at times: a deadline per example would measure them, not us.
settings.register_profile("holdfast", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("holdfast")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite tests/golden from what is compiled now")


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--update-golden"))
