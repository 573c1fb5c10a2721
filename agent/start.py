"""From a file of settings to the daemon's life; exits with a reason if that cannot begin.

Status 78 (EX_CONFIG) is for settings that cannot be used: its unit is not restarted for them, which would not help.
"""

import os
import sys
from pathlib import Path
from types import ModuleType
from typing import cast

from agent.settings import SettingsError, load
from mesh.lean import lean


def start(config: Path) -> None:
    """Run the agent until it is told to leave."""
    try:
        settings = load(config)
    except SettingsError as exc:
        sys.stderr.write(f"Error: {exc}\n")
        sys.exit(os.EX_CONFIG)
    # structlog loads rich if it is there, for tracebacks in colour: 4 MB that a daemon has no use for.
    sys.modules.setdefault("rich", cast("ModuleType", None))
    with lean():
        from agent import daemon
        from mesh.aio import freeze_loaded

    freeze_loaded()
    try:
        daemon.run(settings, config.absolute())
    except daemon.StartError as exc:
        sys.exit(f"Error: {exc}")
