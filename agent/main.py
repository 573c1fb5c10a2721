"""`holdfast-agent`. A daemon starts without the library of the command line: 1 MB that every host would hold."""

import sys
from pathlib import Path


def main() -> None:
    """Do what the command line says. All but a plain `run` is click's: other commands, help, mistakes."""
    match sys.argv[1:]:
        case ["host" | "capture", *_]:
            from agent.hostd.cli import main as host

            sys.exit(host(sys.argv[1:]))
        case ["run"]:
            from agent.settings import DEFAULT_PATH
            from agent.start import start

            start(DEFAULT_PATH)
        case ["run", "--config", path]:
            from agent.start import start

            start(Path(path))
        case _:
            from agent.cli import main as command

            command()


if __name__ == "__main__":
    main()
