"""From a file of settings to the daemon's life; exits 1 with a reason if that cannot begin."""

import sys
from pathlib import Path
from types import ModuleType
from typing import cast

from agent.settings import SettingsError, load


def start(config: Path) -> None:
    """Run the agent until it is told to leave."""
    try:
        settings = load(config)
    except SettingsError as exc:
        sys.exit(f"Error: {exc}")
    # structlog loads rich if it is there, for tracebacks in colour: 4 MB that a daemon has no use for.
    sys.modules.setdefault("rich", cast("ModuleType", None))
    from agent import daemon

    try:
        daemon.run(settings)
    except daemon.StartError as exc:
        sys.exit(f"Error: {exc}")
