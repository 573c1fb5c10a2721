"""Makes what is not there yet, in its order, and counts it."""

import hashlib
import os
from pathlib import Path

from agent.installer.model import AGENT_UNIT, CURRENT, ENVOY_UNIT, ENVOYS, HOME, HOST_UNIT
from agent.installer.source import is_whole
from agent.installer.steps import stale
from agent.installer.system import build_venv, is_kept, is_there, keep_only, make, place_envoy, take_away


def say(words):
    print(words, flush=True)


class Work:
    """Makes what is not there yet, and counts it."""

    def __init__(self, made, source, offer):
        self.made, self.source, self.offer = made, source, offer
        self.downloads = Path(HOME) / "downloads"
        self.changes = 0
        self.restarts = set(made.facts.get("restarts", ()))
        """Units that run as they were before something was made. A run that was killed leaves them to the next one."""
        self.new_envoy = bool(made.facts.get("new_envoy"))
        """Another Envoy than the one that runs is in place."""

    def unit_texts(self):
        """Small, and needed to see whether anything is to do."""
        return [(item.name, self.fetched(item, Path(HOME) / item.name).read_text("utf-8")) for item in self.offer.units]

    def fetched(self, item, target):
        if not is_whole(item, target):
            target.parent.mkdir(mode=0o700, exist_ok=True)
            self.source.fetch(item, target)
        return target

    def run(self, wanted):
        self.fetched(self.offer.script, Path(HOME) / "install.py")
        self.made.tell(stamp=self.offer.sha256)
        for number, thing in enumerate(wanted, 1):
            known = self.made.things.get(thing.key)
            if is_there(thing, known):
                if is_kept(thing, known):
                    say("note: " + thing.name + " was there or was edited; it is left as it is")
                continue
            self.changes += 1
            say("[" + str(number) + "/" + str(len(wanted)) + "] " + words_for(thing))
            self.one(thing)

    def one(self, thing):
        self.remember(thing)
        if thing.kind == "file":
            self.made.note(thing.key, sha256=hashlib.sha256(thing.text.encode()).hexdigest())
        elif thing.kind in {"user", "folder"} and is_foreign(thing, self.made):
            pass  # it was here before: it is made fit, and stays when the rest goes
        else:
            self.made.note(thing.key)
        if thing.kind == "tree" and thing.name.startswith(ENVOYS + "/"):
            place_envoy(thing, lambda target: self.fetched(self.offer.envoy, target))
        elif thing.kind == "tree":
            wheels = self.downloads / "wheels"
            self.downloads.mkdir(mode=0o700, exist_ok=True)
            keep_only(wheels, {Path(item.path).name for item in self.offer.wheels})
            for item in self.offer.wheels:
                self.fetched(item, wheels / Path(item.path).name)
            build_venv(thing, wheels)
        else:
            if thing.kind == "link" and Path(thing.name).is_symlink():
                before = os.readlink(thing.name)
                self.made.tell(**{"previous " + thing.name: before})
            make(thing)

    def remember(self, thing):
        """What is to be restarted because of it, before it is made: the next run finds it made."""
        self.restarts |= affected(thing)
        if thing.kind == "link" and thing.name.startswith(ENVOYS) and Path(thing.name).is_symlink():
            self.new_envoy = True
        self.made.tell(restarts=sorted(self.restarts), new_envoy=self.new_envoy)

    def done(self):
        """All that was to be restarted is."""
        self.made.tell(restarts=[], new_envoy=False)

    def tidy(self):
        """The version before the one in use is kept, to go back to; older ones go."""
        links = (CURRENT, ENVOYS + "/current")
        current = [str(Path(link).parent / os.readlink(link)) for link in links]
        previous = [str(Path(link).parent / self.made.facts.get("previous " + link, "-")) for link in links]
        for key in stale(self.made.things, current, previous):
            say("removing " + key.split(" ", 1)[1])
            take_away("tree", key.split(" ", 1)[1])
            self.made.forget(key)


def is_foreign(thing, made):
    """Was it here before the installation?"""
    if thing.key in made.things:
        return False
    return Path(thing.name).is_dir() if thing.kind == "folder" else is_there(thing, None)


def affected(thing):
    """Units that have to be started anew because of it. Envoy's is not: it is told, and goes on."""
    if thing.kind == "unit":
        return {Path(thing.name).name} - {ENVOY_UNIT}
    if thing.kind == "file":
        return {AGENT_UNIT}
    return {AGENT_UNIT, HOST_UNIT} if thing.name == CURRENT else set()


def words_for(thing):
    if thing.kind == "tree":
        return ("Envoy in " if thing.name.startswith(ENVOYS + "/") else "agent in ") + thing.name
    return thing.kind + " " + thing.name
