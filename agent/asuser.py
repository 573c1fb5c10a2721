"""A command as another user of this host, by setpriv (util-linux): with that user's groups, and with no capability.

An agent that is not root needs three of them for it, in a drop-in of its unit (docs/operations.md): two to become the
user, one to end what that user runs. By default it has none.
"""

import os
import pwd
from collections.abc import Callable, Sequence
from pathlib import Path

_BARE = ("setpriv", "--inh-caps=-all", "--ambient-caps=-all", "--no-new-privs")
NEEDED = {"CAP_KILL": 5, "CAP_SETGID": 6, "CAP_SETUID": 7}
"""Name -> number (capabilities(7))."""


class AsUserError(Exception):
    """It cannot be run as this user, with what to do."""


def command_as(user: str, command: Sequence[str], capabilities: Callable[[], int]) -> tuple[str, ...]:
    """The command that runs this one as that user; as it is, where that is the agent's own.

    Args:
        user: By name; empty: the agent's.
        command: Program and arguments.
        capabilities: Those of this process, as a set of bits.

    Raises:
        AsUserError: there is no such user, or the agent may not.

    """
    held = capabilities()
    account = None
    if user:
        try:
            account = pwd.getpwnam(user)
        except KeyError:
            raise AsUserError(f"this host has no user {user}") from None
    if account is None or account.pw_uid == os.geteuid():
        # What the agent is given for other users' checks is not for what it runs itself.
        return (*_BARE, "--", *command) if held and os.geteuid() != 0 else tuple(command)
    if account.pw_uid == 0:
        raise AsUserError(f"{user} is root under another name, and a check does not need that")
    if missing := [name for name, number in NEEDED.items() if not held >> number & 1]:
        raise AsUserError(
            f"the agent may not run anything as {user}: its unit lacks {', '.join(missing)}; see 'Health by a script' "
            "in docs/operations.md"
        )
    who = (f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--init-groups")
    return (*_BARE, *who, "--", *command)


def held() -> int:
    """The capabilities that this process has in effect."""
    try:
        text = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace")
        return int(next(line.split()[1] for line in text.splitlines() if line.startswith("CapEff:")), 16)
    except (OSError, StopIteration, ValueError):
        return 0
