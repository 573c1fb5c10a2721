"""made.json: each thing that the installation makes is on disk before it is made, so that it can be taken away again,
also after a kill at any moment.
"""

import json
import os
from pathlib import Path

from agent.installer.model import HOME, InstallError


class Made:
    """Things in the order in which they were made: key -> what else is to be known of it."""

    def __init__(self, home=HOME):
        self.home = Path(home)
        self.path = self.home / "made.json"
        self.things = {}
        self.facts = {}
        """node, version, previous."""

    @property
    def exists(self):
        return self.path.exists()

    def load(self):
        try:
            tree = json.loads(self.path.read_text(encoding="utf-8"))
            self.things, self.facts = dict(tree["things"]), dict(tree["facts"])
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError) as exc:
            raise InstallError(
                str(self.path) + " cannot be read (" + str(exc) + "): it says what is to be removed"
            ) from exc
        return self

    def begin(self):
        """The installer's own folder."""
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.home.chmod(0o700)
        self.save()

    def note(self, key, **more):
        """Before it is made."""
        if self.things.get(key) != more:
            self.things[key] = more
            self.save()

    def forget(self, key):
        """After it is gone."""
        if self.things.pop(key, None) is not None:
            self.save()

    def tell(self, **facts):
        if any(self.facts.get(name) != value for name, value in facts.items()):
            self.facts.update(facts)
            self.save()

    def save(self):
        raw = json.dumps({"format": 1, "facts": self.facts, "things": self.things}, indent=1).encode() + b"\n"
        durable(self.path, raw, 0o600)


def durable(path, raw, mode, owner=None):
    """The old bytes or the new ones, also after a crash."""
    temporary = path.with_name("." + path.name + ".new")
    temporary.unlink(missing_ok=True)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(raw)
        file.flush()
        os.fchmod(fd, mode)
        if owner is not None:
            os.fchown(fd, *owner)
        os.fsync(fd)
    temporary.replace(path)
