"""For the commands that work on the store itself, with a control-plane node's settings: init and restore."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from controlplane.cli.errors import CliError, Exit
from controlplane.cli.output import say
from controlplane.settings import Settings, SettingsError, load


def settings(path: Path) -> Settings:
    """A control-plane node's settings; CliError with everything that is wrong with the file."""
    try:
        return load(path)
    except SettingsError as exc:
        details = [f"{fault.path or '(file)'}: {fault.reason}" for fault in exc.faults]
        raise CliError(f"{path} cannot be used", code=Exit.USAGE, details=details) from exc


@contextmanager
def errors_of_setup(chosen: Settings, otherwise: str) -> Iterator[None]:
    """What can go wrong in controlplane.setup, as errors of the command line."""
    from ca.seal import SealError
    from ca.signer.protocol import SignerError
    from controlplane.setup import BackupError, SetupError
    from mesh.store.errors import Refused, StoreError, Unavailable

    try:
        yield
    except (SetupError, BackupError) as exc:
        raise CliError(f"{otherwise}: {exc}", code=Exit.REFUSED) from exc
    except SealError as exc:
        hint = "32 random bytes in base64, the same file for every node: `head -c 32 /dev/urandom | base64`"
        raise CliError(f"{otherwise}: the seal key cannot be used: {exc}", code=Exit.USAGE, hint=hint) from exc
    except SignerError as exc:
        hint = f"the signer is {chosen.signer.kind} {chosen.signer.address}".rstrip() + "; it is named in the settings"
        raise CliError(f"{otherwise}: {exc}", code=Exit.UNREACHABLE, hint=hint) from exc
    except Unavailable as exc:
        hint = f"is a majority of the members up? {', '.join(chosen.etcd.endpoints)}"
        raise CliError(f"{otherwise}: etcd does not answer: {exc}", code=Exit.UNREACHABLE, hint=hint) from exc
    except Refused as exc:
        hint = "do the certificate and its user belong to this etcd? A first init also needs --etcd-root-cert and -key"
        raise CliError(f"{otherwise}: etcd refuses: {exc}", code=Exit.REFUSED, hint=hint) from exc
    except StoreError as exc:
        raise CliError(f"{otherwise}: {exc}") from exc


def progress(what: str, done: int, total: int) -> None:
    """One line a step: these are few, and a log keeps them."""
    say(f"[{done}/{total}] {what}")
