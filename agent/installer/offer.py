"""The manifest of a distribution folder, and what of it is for this host."""

import hashlib
import json
import re
from dataclasses import dataclass

from agent.installer.model import AGENT_UNIT, ENVOY_UNIT, NAME, UNITS, InstallError

MAX_MANIFEST = 4 * 1024 * 1024
MAX_FILE = 1 << 30
INSTALL_SCRIPT = "install.py"
_PATH = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.+@-]{0,199}/){0,3}[A-Za-z0-9_][A-Za-z0-9_.+@-]{0,199}\Z")
_HEX = re.compile(r"[0-9a-f]{64}\Z")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_-]{0,63}\Z")


@dataclass(frozen=True)
class Item:
    """One file of the folder."""

    path: str
    sha256: str
    size: int
    kind: str
    arch: str
    python: str
    name: str
    version: str


@dataclass(frozen=True)
class Offer:
    """What this host takes."""

    version: str
    sha256: str
    """Of the manifest."""
    wheels: tuple
    envoy: Item
    units: tuple
    script: Item

    @property
    def stamp(self):
        """Equal wheels, equal virtual environments."""
        text = "\n".join(sorted(item.path + " " + item.sha256 for item in self.wheels))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def download(self):
        """Bytes."""
        return sum(item.size for item in (*self.wheels, self.envoy, *self.units, self.script))


def read_manifest(raw, expected=""):
    """Its version and its items.

    Raises:
        InstallError: it has another hash than expected, or is no manifest.

    """
    digest = hashlib.sha256(raw).hexdigest()
    if expected and digest != expected:
        raise InstallError(
            "the manifest is not the one that this line was made for (its SHA-256 is " + digest + "): the folder was "
            "made anew, or somebody stands between. Nothing was installed. Make a new line: holdfast token create"
        )
    try:
        tree = json.loads(raw)
        items = [_item(entry) for entry in tree["files"]]
        version = tree["version"]
        known = tree.get("format", 1) == 1 and bool(_VERSION.match(version))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise InstallError("manifest.json cannot be used: " + (str(exc) or type(exc).__name__)) from exc
    if not known:
        raise InstallError("manifest.json cannot be used: its format or version is not one that this installer knows")
    return version, digest, items


def _item(entry):
    item = Item(
        path=entry["path"],
        sha256=entry["sha256"],
        size=entry["size"],
        kind=entry["kind"],
        arch=entry.get("arch", "any"),
        python=entry.get("python", "any"),
        name=entry["name"],
        version=entry["version"],
    )
    if not _PATH.match(item.path) or ".." in item.path.split("/"):
        raise ValueError(repr(item.path[:80]) + " is not a plain relative path")
    if not _HEX.match(item.sha256) or not 0 <= item.size <= MAX_FILE or not _VERSION.match(item.version):
        raise ValueError(item.path + ": its hash, size or version is not one")
    return item


def choose(version, digest, items, *, arch, python):
    """What of it is for a host of this kind.

    Raises:
        InstallError: something is missing, all of it named.

    """
    tag = str(python[0]) + "." + str(python[1])
    fitting = [item for item in items if item.arch in ("any", arch) and item.python in ("any", tag)]
    wheels = tuple(item for item in fitting if item.kind == "wheel")
    by_name = {item.name: item for item in fitting if item.kind != "wheel"}
    missing = [unit for unit in (AGENT_UNIT, ENVOY_UNIT) if unit not in by_name]
    missing += [name for name in (INSTALL_SCRIPT,) if name not in by_name]
    missing += ["wheel of " + name for name in (NAME, "pip") if name not in {item.name for item in wheels}]
    if not [item for item in wheels if item.python == tag]:
        missing.append("wheels for Python " + tag + " (it has: " + _known(items, "python") + ")")
    if "envoy" not in by_name:
        missing.append("Envoy for " + arch + " (holdfast dist build --envoy-" + arch.replace("_", "-") + " FILE)")
    if missing:
        raise InstallError("the distribution folder lacks for this host: " + ", ".join(missing))
    units = tuple(by_name[unit] for unit in UNITS if unit in by_name)
    return Offer(version, digest, wheels, by_name["envoy"], units, by_name[INSTALL_SCRIPT])


def _known(items, field):
    return ", ".join(sorted({getattr(item, field) for item in items} - {"any"})) or "none"
