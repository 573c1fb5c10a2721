"""Where the rest of the mesh is, whom we believe to be of it, and as whom we connect: by settings, join and bundle."""

import ssl
from collections.abc import Callable

from agent import tls
from agent.settings import Settings
from agent.state import StoredIdentity
from mesh.model import World


class Peers:
    def __init__(
        self, settings: Settings, stored: Callable[[], StoredIdentity | None], world: Callable[[], World]
    ) -> None:
        self._settings, self._stored, self._world = settings, stored, world
        self._context: ssl.SSLContext | None = None
        self._connected_as: tuple[object, object] = (None, None)

    def controlplanes(self) -> tuple[str, ...]:
        stored = self._stored()
        return tuple(dict.fromkeys((*self._settings.controlplanes, *(stored.controlplanes if stored else ()))))

    def gates(self) -> tuple[str, ...]:
        """Those of the settings, or those told at the join."""
        stored = self._stored()
        return self._settings.gates or (stored.gates if stored else ())

    def roots(self) -> tuple[str, ...]:
        """Whom we believe to be of our mesh: by the bundle that it publishes; before that is known, by the join."""
        stored = self._stored()
        if stored is None:
            return ()
        bundle = self._world().bundle(stored.trust_domain)
        return tls.usable(bundle.spec.roots if bundle else ()) or stored.roots

    def tls(self) -> ssl.SSLContext | None:
        """For connections to the control plane; None without an identity."""
        stored = self._stored()
        if self._context is None and stored is not None:
            self._context = tls.context(self.roots(), stored.own)
        return self._context

    def renewed(self) -> bool:
        """Is our certificate, or whom we trust, another than when this was asked last?"""
        stored = self._stored()
        now = (stored.own, self.roots()) if stored else self._connected_as
        if now == self._connected_as:
            return False
        self._connected_as, self._context = now, None
        return True
