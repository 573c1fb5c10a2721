"""services.d/*.yaml: the host's own services. Read strictly; a bad file is a problem with a name, and stops no other.

A file holds one or more definitions. Names and listening addresses that collide are refused in the file that comes
second (files sort by name), so that a new bad file never takes a place from an old good one of a lower name.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG

from mesh import codec, validate
from mesh.model import ServiceDefinition
from mesh.model.checks import place

MAX_FILES = 1000
"""More services than one host can mean to run."""

Stamp = tuple[tuple[str, int, int, int], ...]
"""Name, time of change, size and inode of each file: equal stamps, equal files."""

Claim = tuple[str, str]
"""Something of a host that only one definition can have: kind and name."""


_OTHER = {
    "service": "another `name` or `namespace`, or remove one",
    "instance": "another `instance`",
    "listen": "another `listen` or `ports[].port`",
    "port": "another `listen` or `ports[].port`",
}
"""What to change, by the kind of what two definitions claim."""


@dataclass(frozen=True, slots=True)
class Definitions:
    good: tuple[ServiceDefinition, ...] = ()
    problems: tuple[str, ...] = ()
    """`<file>: <path>: <reason>`"""


def stamp(folder: Path) -> Stamp:
    """Cheap to take; changes when anything in the folder did."""
    found = []
    for path in _files(folder):
        try:
            stat = path.stat()
        except OSError:
            continue
        found.append((path.name, stat.st_mtime_ns, stat.st_size, stat.st_ino))
    return tuple(found)


def load(folder: Path, node: str) -> Definitions:
    """Everything usable in the folder of this node, and what is wrong with the rest. Never raises for what a file
    holds.
    """
    texts: list[tuple[str, bytes]] = []
    problems: list[str] = []
    files = _files(folder)
    if len(files) > MAX_FILES:
        problems.append(f"{folder}: more than {MAX_FILES} files; the rest is left out")
    for path in files[:MAX_FILES]:
        try:
            text = _read(path)
        except OSError as exc:
            problems.append(f"{path.name}: cannot be read: {exc.strerror}")
            continue
        if text is None:
            problems.append(f"{path.name}: is no file")
        elif len(text) > codec.MAX_TEXT:
            problems.append(f"{path.name}: larger than {codec.MAX_TEXT // 2**20} MiB")
        else:
            texts.append((path.name, text))
    read = parse(texts, node)
    return Definitions(read.good, (*problems, *read.problems))


def _read(path: Path) -> bytes | None:
    """A byte more than is taken, at most; None: it is no file. A link may lead where others do as they like."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not S_ISREG(os.fstat(descriptor).st_mode):
            return None
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(codec.MAX_TEXT + 1)
    finally:
        os.close(descriptor)


def parse(texts: Iterable[tuple[str, bytes]], node: str) -> Definitions:
    """The definitions in these files, in their order. Pure."""
    good: list[ServiceDefinition] = []
    problems: list[str] = []
    taken: dict[Claim, str] = {}
    callers: dict[Claim, tuple[str, str]] = {}
    for name, text in texts:
        try:
            documents = codec.load_yaml(text)
        except codec.BadDocument as exc:
            problems.append(f"{name}: {exc}")
            continue
        for document in documents:
            parsed = codec.convert_strict(ServiceDefinition, document)
            faults = parsed if isinstance(parsed, tuple) else validate.definition(parsed)
            if faults:
                problems += [f"{name}: {f.path}: {f.reason}" if f.path else f"{name}: {f.reason}" for f in faults]
                continue
            assert isinstance(parsed, ServiceDefinition)
            if clashes := [*_clashes(parsed, node, taken), *_shared(parsed, callers)]:
                problems += [f"{name}: {clash}" for clash in clashes]
                continue
            who = f"{parsed.name}.{parsed.namespace} ({name})"
            taken.update(dict.fromkeys(_claims(parsed, node), who))
            for claim in _callers(parsed):
                callers.setdefault(claim, (parsed.identity, who))
            good.append(parsed)
    return Definitions(tuple(good), tuple(problems))


def _claims(definition: ServiceDefinition, node: str) -> tuple[Claim, ...]:
    return (
        ("service", f"{definition.name}.{definition.namespace}"),
        ("instance", f"{definition.namespace}/{definition.instance_name(node)}"),
        *(("listen", upstream.listen) for upstream in definition.upstreams if upstream.listen),
        *(("port", place(port.address, port.port)) for port in definition.ports),
    )


def _callers(definition: ServiceDefinition) -> tuple[Claim, ...]:
    """Local processes by which its calls are known. Definitions of one identity may share them: they are one caller."""
    return (
        *(("callers.users", user) for user in definition.callers.users),
        *(("callers.units", unit) for unit in definition.callers.units),
    )


def _rivals(claim: Claim) -> tuple[Claim, ...]:
    """What it cannot live beside. Two definitions may stand for one application's port; nobody else listens there."""
    match claim:
        case ("listen", where):
            return (claim, ("port", where))
        case ("port", where):
            return (("listen", where),)
    return (claim,)


def _clashes(definition: ServiceDefinition, node: str, taken: Mapping[Claim, str]) -> Iterator[str]:
    service, instance, *places = _claims(definition, node)
    # The same service twice has the same instance twice, which says nothing more.
    for kind, what in (service, *places) if service in taken else (instance, *places):
        for other in _rivals((kind, what)):
            if other in taken:
                made = kind == "instance" and not definition.instance
                told = f"{what} (`<name>-<node>`, where it names none)" if made else what
                yield f"{service[1]}: {kind} {told} is already taken by {taken[other]}: give one of them {_OTHER[kind]}"


def _shared(definition: ServiceDefinition, callers: Mapping[Claim, tuple[str, str]]) -> Iterator[str]:
    for path, what in _callers(definition):
        identity, who = callers.get((path, what), (definition.identity, ""))
        if identity != definition.identity:
            yield f"{path}: {what} calls as {identity} already, for {who}: one process cannot call as two identities"


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(p for p in folder.iterdir() if p.suffix in {".yaml", ".yml"} and not p.name.startswith("."))
    except OSError:
        return []
