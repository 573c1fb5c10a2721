"""The pinned Gateway API: two Go modules, fetched by Go itself and verified against go.sum (docs/decisions/001).

Nothing of them is kept in this repository but versions, hashes and names of fields.
"""

import json
import os
import subprocess
from functools import cache
from pathlib import Path
from typing import NamedTuple

from controlplane.demo.binaries import find_go

PINS = Path(__file__).parent / "module"
SCHEMA = "sigs.k8s.io/gateway-api"
SUITE = "sigs.k8s.io/gateway-api/conformance"
FETCH_SECONDS = 120.0


class Module(NamedTuple):
    path: str
    version: str
    sum: str
    """The hash of its files, as in go.sum."""
    folder: Path


def pinned(path: str) -> tuple[str, str]:
    """Version and hash of a module in go.sum."""
    for line in (PINS / "go.sum").read_text().splitlines():
        name, version, found = line.split()
        if name == path:
            return version, found
    raise KeyError(path)


@cache
def fetch(path: str) -> Module:
    """The module's files, from Go's module cache or through its proxy. Go refuses what does not match go.sum."""
    version, expected = pinned(path)
    env = {"HOME": str(Path.home())} | os.environ
    env |= {"GOFLAGS": "-mod=readonly", "GOTOOLCHAIN": "local", "GOWORK": "off"}
    done = subprocess.run(
        [find_go(PINS), "mod", "download", "-json", f"{path}@{version}"],
        cwd=PINS,
        env=env,
        capture_output=True,
        text=True,
        timeout=FETCH_SECONDS,
        check=False,
    )
    if done.returncode:
        raise AssertionError(f"{path} {version} could not be fetched: {done.stdout[-1000:]}{done.stderr[-1000:]}")
    told = json.loads(done.stdout)
    assert told["Sum"] == expected, told
    return Module(path, version, told["Sum"], Path(told["Dir"]))
