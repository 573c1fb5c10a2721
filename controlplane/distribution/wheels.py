"""All wheels that hosts need, for each Python and architecture, by the ordinary pip client."""

import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable, Mapping
from email.parser import BytesParser
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

Say = Callable[[str], None]

GLIBC = (5, 36)
"""manylinux_2_<n>: up to Debian 12's glibc, which is the oldest of the hosts."""
ROUNDS = 4
"""Of asking again for what pip left out; each follows one step of dependencies."""
DOWNLOAD_SECONDS = 900.0


class DistributionError(Exception):
    """A folder cannot be made or is not whole; the message says what and what to do."""


def platforms(arch: str) -> tuple[str, ...]:
    low, high = GLIBC
    # The first three are the old names of 2_5, 2_12 and 2_17.
    return (
        *(f"manylinux{old}_{arch}" for old in ("1", "2010", "2014")),
        *(f"manylinux_2_{minor}_{arch}" for minor in range(low, high + 1)),
    )


def download(
    wanted: Iterable[str], into: Path, *, python: str, arch: str, deps: bool = True, links: Path | None = None
) -> None:
    """Have pip fetch wheels. Those that are there already are not fetched again.

    Raises:
        DistributionError: pip's words.

    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary", ":all:", "--dest", str(into)]
    command += ["--implementation", "cp", "--python-version", python]
    command += [word for abi in (f"cp{python.replace('.', '')}", "abi3", "none") for word in ("--abi", abi)]
    command += [word for tag in platforms(arch) for word in ("--platform", tag)]
    command += [] if deps else ["--no-deps"]
    command += ["--find-links", str(links)] if links else []
    names = list(wanted)
    try:
        done = subprocess.run([*command, *names], capture_output=True, text=True, timeout=DOWNLOAD_SECONDS, check=False)
    except subprocess.TimeoutExpired as exc:
        raise DistributionError(f"pip took more than {DOWNLOAD_SECONDS:g} s to download; try again") from exc
    if done.returncode:
        what = ", ".join(names) if len(names) < 4 else f"{names[0]} and {len(names) - 1} more"
        raise DistributionError(f"pip cannot download {what} for Python {python} on {arch}:\n{done.stderr[-2000:]}")


def gather(own: Path, into: Path, *, python: str, arch: str) -> None:
    """The project's wheel, pip, and all that they need on such a host.

    pip judges markers such as `python_version < "3.13"` by the Python that it runs on itself, so what it left out for
    the other one is asked for once more.
    """
    download(["pip", str(own)], into, python=python, arch=arch)
    for _ in range(ROUNDS):
        missing = lacking(_requirements(into), python=python, arch=arch)
        if not missing:
            return
        download(missing, into, python=python, arch=arch)
    raise DistributionError(f"for Python {python} on {arch} these stay missing: {', '.join(missing)}")


def lacking(wheels: Mapping[str, Iterable[str]], *, python: str, arch: str) -> list[str]:
    """Requirements (of wheels: name -> its Requires-Dist) that no wheel meets on such a host. Pure."""
    env: dict[str, str] = dict(default_environment())  # type: ignore[arg-type]  # a TypedDict of strings
    env |= {"python_version": python, "python_full_version": f"{python}.0", "platform_machine": arch, "extra": ""}
    env |= {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "implementation_name": "cpython"}
    env |= {"platform_python_implementation": "CPython"}
    found: dict[str, str] = {}
    for needed in wheels.values():
        for text in needed:
            try:
                requirement = Requirement(text)
            except InvalidRequirement:
                continue  # pip has the last word, on the host as here
            applies = requirement.marker is None or requirement.marker.evaluate(env)
            if applies and canonicalize_name(requirement.name) not in wheels:
                found[canonicalize_name(requirement.name)] = f"{requirement.name}{requirement.specifier}"
    return [found[name] for name in sorted(found)]


def _requirements(folder: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for path in sorted(folder.glob("*.whl")):
        name = canonicalize_name(tags(path.name)[0])
        found.setdefault(name, []).extend(metadata(path).get("Requires-Dist", ()))
    return found


def metadata(wheel: Path) -> dict[str, list[str]]:
    """A wheel's METADATA, by field."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            inner = next(n for n in archive.namelist() if n.count("/") == 1 and n.endswith(".dist-info/METADATA"))
            message = BytesParser().parsebytes(archive.read(inner))
    except (OSError, zipfile.BadZipFile, StopIteration, KeyError) as exc:
        raise DistributionError(f"{wheel} is not a wheel: {exc or 'it has no METADATA'}") from exc
    found: dict[str, list[str]] = {}
    for key, value in message.items():
        found.setdefault(key, []).append(str(value))
    return found


def tags(filename: str) -> tuple[str, str, str, str]:
    """A wheel's name, version, Python and architecture, by its file's name. Pure."""
    try:
        name, version, _, kinds = parse_wheel_filename(filename)
    except InvalidWheelFilename as exc:
        raise DistributionError(f"{filename} is not a wheel's name: {exc}") from exc
    arches = {arch for tag in kinds for arch in ("x86_64", "aarch64") if tag.platform.endswith(arch)}
    # One for a single CPython carries its ABI; abi3 and pure ones fit all that are newer.
    pythons = {tag.interpreter for tag in kinds if tag.abi.startswith("cp")}
    python = next(iter(pythons)) if len(pythons) == 1 else ""
    return name, str(version), f"3.{python.removeprefix('cp3')}" if python else "any", next(iter(arches), "any")
