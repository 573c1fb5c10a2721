"""What the HTTP server itself has to say. A request that is no HTTP is a refused call, not a trace in the log."""

import structlog
from aiohttp.http_exceptions import HttpProcessingError

from controlplane.audit import AuditLog

log = structlog.get_logger(__name__)


class ServerLog:
    """Takes the place of aiohttp's logger, which writes some 20 lines for each malformed request of anybody."""

    def __init__(self, audit: AuditLog) -> None:
        self._audit = audit

    def debug(self, message: str, *args: object, exc_info: object = None, **_: object) -> None:
        if isinstance(exc_info, HttpProcessingError):
            self.exception(message, *args, exc_info=exc_info)

    def warning(self, message: str, *args: object, **_: object) -> None:
        log.warning("http server", said=message % args)

    def exception(self, message: str, *args: object, exc_info: object = None, **_: object) -> None:
        if isinstance(exc_info, HttpProcessingError | ConnectionError):
            peer = str(args[0]) if args else ""
            self._audit.refused(peer, "api.malformed", peer=peer, reason=type(exc_info).__name__)
        else:
            log.error("http server", said=message % args, exc_info=exc_info)
