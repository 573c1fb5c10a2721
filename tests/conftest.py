"""What all tests share: the switch that rewrites goldens, where logs go, how hypothesis runs, and who runs what."""

import os
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, settings

# Machines that run this are shared and slow at times: a deadline per example would measure them, not us.
settings.register_profile("holdfast", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# A change is judged on the same examples each time it is tried; everybody else's runs look for new ones.
settings.register_profile("ci", settings.get_profile("holdfast"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "holdfast")

# Logs go where pytest captures them, and shows them beside a failure; never to stdout, which some tests look at.
structlog.configure(
    processors=[
        structlog.stdlib.add_log_level,
        structlog.processors.format_exc_info,
        structlog.dev.ConsoleRenderer(colors=False),
    ],
    logger_factory=structlog.stdlib.LoggerFactory(),
    wrapper_class=structlog.stdlib.BoundLogger,
    cache_logger_on_first_use=False,
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite tests/golden from what is compiled now")


@pytest.hookimpl(optionalhook=True)  # pytest-xdist's
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    if config.getoption("dist") != "loadfile":
        return None  # its own
    from tests.support.scheduling import Together

    return Together(config, log)


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--update-golden"))
