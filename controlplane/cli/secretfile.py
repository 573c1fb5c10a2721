"""Files that only their owner may read."""

import os
from pathlib import Path

from controlplane.cli.errors import CliError


def write_secret(path: str, content: str | bytes) -> None:
    """Write a new file with mode 0600; an existing one is never overwritten."""
    raw = content.encode() if isinstance(content, str) else content
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(raw)
    except FileExistsError as exc:
        raise CliError(f"{path} exists already", hint="name another file, or move that one away") from exc
    except OSError as exc:
        raise CliError(f"{Path(path)} cannot be written: {exc.strerror}") from exc
