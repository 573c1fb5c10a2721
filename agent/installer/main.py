"""The command line of install.py, and the order of it all."""

import argparse
import dataclasses
import errno
import fcntl
import os
import re
import shutil
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from agent.installer.facts import gather
from agent.installer.life import (
    clean_names,
    drain,
    hand_over_envoy,
    has_joined,
    join,
    start,
    stop,
    wait_ready,
)
from agent.installer.model import (
    AGENT_UNIT,
    AGENT_YAML,
    CONFIG,
    ENVOY_UNIT,
    HOME,
    OPT,
    SHARED,
    UNIT_FOLDER,
    InstallError,
    Options,
)
from agent.installer.offer import choose, read_manifest
from agent.installer.preflight import early_faults, faults, notes
from agent.installer.record import Made
from agent.installer.source import FolderSource, RemoteSource
from agent.installer.steps import parse_service, removal, things
from agent.installer.system import call, hooks, left_in, take_away, take_hook
from agent.installer.work import Work, say

READY_SECONDS = 60
DRAIN_SECONDS = 15
LOCK = "/run/holdfast-install.lock"
TOKEN = re.compile(r"hf1\.[0-9a-f]{16}\.[A-Za-z0-9_-]{43}\.[0-9a-f]{32}\Z")
EPILOG = """
examples:
  the line of `holdfast token create web-1 -i shop/web` on a bare host
  python3 install.py --dist . --controlplane https://cp-1:8443 --node web-1 --token-file token   without a network
  python3 install.py --dist . --upgrade              to the version in this folder; Envoy's connections live on
  python3 install.py --remove                        gives the host back as it was (also: holdfast-agent leave)
"""


def parse(arguments):
    parser = argparse.ArgumentParser(
        prog="install.py",
        description="Install Holdfast's agent and Envoy on this host, join the mesh, and start them.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("url", nargs="?", default="", help="a control-plane node that serves the distribution folder")
    parser.add_argument("manifest_sha256", nargs="?", default="", help="the SHA-256 of its manifest.json")
    parser.add_argument("--dist", type=Path, help="install from this distribution folder instead")
    parser.add_argument("--controlplane", action="append", default=[], metavar="URL", help="with --dist: where to join")
    parser.add_argument("--node", default="", help="this host's name in the mesh, as in the token")
    parser.add_argument(
        "--address",
        default="",
        help="where other hosts reach it, also on a machine in front (NAT); default: by the way to the control plane",
    )
    parser.add_argument(
        "--bind", default="", help="where Envoy listens here; default: at the address, or everywhere behind NAT"
    )
    parser.add_argument("--gateway", action="store_true", help="it passes calls between clusters, as in the token")
    parser.add_argument("--identity", action="append", default=[], metavar="NAMESPACE/ACCOUNT", help="as in the token")
    parser.add_argument(
        "--service", action="append", default=[], metavar="[NAMESPACE/]NAME:PORT[:PROTOCOL]|FILE",
        help="a local service to register, or a file with definitions",
    )  # fmt: skip
    parser.add_argument(
        "--settings", type=Path, metavar="FILE", help="agent.yaml as it shall be (gates, capture, …); names this node"
    )
    parser.add_argument("--token-file", default="-", help="file with the join token; -: standard input")
    parser.add_argument("--upgrade", action="store_true", help="to the version of the folder; the one before is kept")
    parser.add_argument("--remove", action="store_true", help="give the host back as it was")
    parser.add_argument("--keep-config", action="store_true", help="with --remove: leave /etc/holdfast")
    parser.add_argument(
        "--drain-seconds", type=float, default=DRAIN_SECONDS, help="with --remove: for what is under way"
    )
    given = parser.parse_args(arguments)
    if not given.remove:
        if bool(given.url) == bool(given.dist):
            parser.error("name a control plane and the manifest's SHA-256, or a folder with --dist")
        if given.url and not re.fullmatch("[0-9a-f]{64}", given.manifest_sha256):
            parser.error(
                "the manifest's SHA-256 is needed after the URL: whatever the URL says is not believed without"
            )
        if not given.upgrade and not re.fullmatch("[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", given.node):
            parser.error("--node is the host's name in the mesh: a DNS label, as in the token")
        for name in lacking(given):
            parser.error("--settings: " + name + " is not in the file, which is all of agent.yaml: write it there")
        if given.dist and not given.upgrade and not given.controlplane:
            parser.error("--controlplane URL is needed with --dist: where the host joins")
    return given


def lacking(given):
    """What the line says, and a file of settings does not."""
    text = given.settings.read_text(encoding="utf-8") if given.settings and given.settings.is_file() else ""
    said = [name for name, value in (("gateway", given.gateway), ("bind", given.bind)) if value and given.settings]
    return [name for name in said if not re.search("^" + name + ":", text, re.MULTILINE)]


def options_of(given):
    services, files = [], []
    for text in given.service:
        if text.endswith((".yaml", ".yml")):
            files.append((Path(text).name, Path(text).read_text(encoding="utf-8")))
        else:
            services.append(parse_service(text, given.identity))
    return Options(
        node=given.node,
        address=given.address,
        bind=given.bind,
        gateway=given.gateway,
        controlplanes=tuple(given.controlplane or [given.url]),
        identities=tuple(given.identity),
        services=tuple(services),
        files=tuple(files),
        settings=given.settings.read_text(encoding="utf-8") if given.settings else "",
        upgrade=given.upgrade,
    )


def main(arguments=None):
    # Nobody who is not root has a say in what is created here, whatever the shell's mask is.
    os.umask(0o022)
    sys.excepthook = sys.__excepthook__  # the pasted line has set another
    given = parse(arguments)
    try:
        with alone():
            remove(given) if given.remove else install(given)
    except InstallError as exc:
        return failed(str(exc))
    except ValueError as exc:
        return failed(str(exc))
    except OSError as exc:
        if exc.errno in {errno.ENOSPC, errno.EDQUOT}:
            return failed("the disk is full. Make room, then run the same again: it goes on where it stopped")
        return failed(str(exc))
    except KeyboardInterrupt:
        return failed(
            "interrupted; run the same again to go on, or python3 " + HOME + "/install.py --remove to take it away"
        )
    return 0


def failed(words):
    print("holdfast: " + words, file=sys.stderr, flush=True)
    return 1


@contextmanager
def alone():
    """Two at a time would not see each other's steps."""
    if os.geteuid():
        yield  # it will be told what it lacks
        return
    with open(LOCK, "w", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InstallError("another run of the installer is under way on this host") from None
        yield


def read_token_text(name):
    text = sys.stdin.read() if name == "-" and not sys.stdin.isatty() else ""
    if name != "-":
        text = Path(name).read_text(encoding="utf-8")
    text = text.strip()
    if not TOKEN.match(text):
        raise InstallError(
            "this is not a join token (hf1.<id>.<secret>.<pin>): "
            + ("none came on standard input" if not text else "the text is damaged")
            + ". holdfast token create makes one"
        )
    return text


def look_around(given, options, made):
    """Facts, what is offered, and where it comes from. Every fault is told at once."""
    facts = gather(made, options.controlplanes[0] if options.controlplanes else "", options)
    if early_faults(facts):
        raise InstallError(told(early_faults(facts)))
    token, offer, source = "", None, None
    needs_token = given.url or not (options.upgrade or has_joined())
    if needs_token:
        token = read_token_text(given.token_file)
    try:
        remote = RemoteSource(options.controlplanes[0], token, say) if token else None
        if remote:
            facts = dataclasses.replace(facts, skew=remote.look(time.time()))
        source = FolderSource(given.dist) if given.dist else remote
        if source and not faults(facts, options, None):
            version, digest, items = read_manifest(source.manifest(), given.manifest_sha256)
            offer = choose(version, digest, items, arch=facts.arch, python=facts.python)
    except InstallError as exc:
        facts = dataclasses.replace(facts, unreachable=str(exc))
    found = faults(facts, options, offer)
    if not options.upgrade and not options.address and not facts.address:
        found.append("no address of this host leads to the control plane: name one with --address")
    if found:
        raise InstallError(told(found))
    return facts, token, source, offer


def told(found):
    if len(found) == 1:
        return found[0] + "\n(nothing was changed)"
    return "it cannot be installed here:\n" + "\n".join("  - " + fault for fault in found) + "\n(nothing was changed)"


def install(given):
    began = time.monotonic()
    options, made = options_of(given), Made().load()
    facts, token, source, offer = look_around(given, options, made)
    check_version(options, made, offer)
    for note in notes(facts):
        say("note: " + note)
    made.begin()
    made.tell(node=options.node or made.facts.get("node", ""), version=offer.version, removing=False)
    work = Work(made, source, offer)
    work.run(things(options, offer, work.unit_texts(), facts))
    if not options.upgrade and not has_joined():
        say("joining as " + options.node)
        join(token)
        work.changes += 1
    if start([item.name for item in offer.units], work.restarts):
        work.changes += 1
    if work.new_envoy and hand_over_envoy():
        say("Envoy hands over to " + offer.envoy.version)
    work.done()
    found = wait_ready(READY_SECONDS)
    if options.upgrade:
        work.tidy()
    shutil.rmtree(work.downloads, ignore_errors=True)
    report(found, offer, work.changes, time.monotonic() - began)


def check_version(options, made, offer):
    before = made.facts.get("stamp", "")
    if before and before != offer.sha256 and not options.upgrade:
        raise InstallError(
            "Holdfast " + made.facts.get("version", "") + " is installed here from another folder; this one has "
            + offer.version + ". Say --upgrade to change to it (nothing was changed)"
        )  # fmt: skip


def report(found, offer, changes, seconds):
    say("")
    say("ready after " + str(round(seconds, 1)) + " s, " + str(changes) + " changes: node " + found["node"] + " serves")
    say("  agent    " + offer.version + "  " + AGENT_UNIT + "  (holdfast-agent status)")
    say("  Envoy    " + offer.envoy.version + "  " + ENVOY_UNIT)
    say("  files    " + ", ".join((OPT, CONFIG, "/var/lib/holdfast", HOME)))
    for instance in found.get("instances", ()):
        say(
            "  service  "
            + instance["service"]
            + " as "
            + instance["identity"]
            + ": registered "
            + instance["registered"]
        )
    if not found.get("instances"):
        say("  service  none yet: put definitions into " + CONFIG + "/services.d")
    say("to leave:  holdfast-agent leave")


def remove(given):
    if os.geteuid():
        raise InstallError("this needs root: run it as root, or with sudo")
    made = Made().load()
    if not made.exists:
        shutil.rmtree(HOME, ignore_errors=True)  # a removal that was killed in its last moment
        if Path(AGENT_YAML).exists() and not given.keep_config:
            say("note: " + AGENT_YAML + " is there, and was not made by the installer: it stays")
        say("nothing is installed here by the installer; nothing was changed")
        return
    node = made.facts.get("node", "")
    if not made.facts.get("removing"):
        words = drain(given.drain_seconds)
        if words:
            say("note: " + words)
        made.tell(removing=True)
    say("stopping the units")
    stop()
    words = clean_names()
    if words:
        say("note: names were not cleaned: " + words)
    for path in hooks(UNIT_FOLDER):
        say("removing drop-in " + str(path))
        take_hook(path)
    for kind, name in removal(made.things, keep_config=given.keep_config):
        others = left_in(name) if name in SHARED else []
        if others:
            say("note: " + name + " stays, with what the installer did not make: " + ", ".join(others))
        else:
            say("removing " + kind + " " + name)
            take_away(kind, name)
        made.forget(kind + " " + name)
    call("systemctl", "daemon-reload")
    for place in ("/run/holdfast", "/run/holdfast-envoy", "/run/holdfast-host"):
        shutil.rmtree(place, ignore_errors=True)
    for left in sorted(made.home.iterdir(), key=lambda path: path == made.path):
        # The record is the last to go.
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    made.home.rmdir()
    say("this host is as it was. The mesh still knows the name " + node + ": holdfast delete node " + node)
