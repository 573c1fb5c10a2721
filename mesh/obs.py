"""Logs, metrics and the health page: how they look everywhere. What is logged or counted is each package's own.

Logs are lines on stderr, JSON or for people: a constant message, facts as fields. Secrets are taken out by the name of
their field and by their looks. Metrics live in a registry that its owner made; a package's metric names stand in one
table (`metrics.py`, rows of `Metric`), so that they can be listed and never collide.
"""

import functools
import logging
import re
import sys
from collections.abc import Mapping, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

import msgspec
import structlog
from structlog.typing import Processor

if TYPE_CHECKING:
    # Loaded by who has metrics to keep: the agent has none here, and saves the 3 MB.
    from prometheus_client import Counter, Gauge, Histogram

REDACTED = "[redacted]"

MAX_FIELD = 4096
"""Characters of one field: an input that is echoed must not fill the log."""

_SECRET_FIELDS = (
    "token",
    "secret",
    "secretid",
    "password",
    "passphrase",
    "authorization",
    "keypem",
    "privatekey",
    "cookie",
)
"""A field whose name, without `_` and `-`, ends so holds a secret."""

_SECRET_TEXT = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|\bBearer\s+[^\s'\",]+"
    r"|\bhf[a-z]?[0-9]\.[A-Za-z0-9_.-]+"
    r"|\b(?:hvs|hvb|hvr|s|b)\.[A-Za-z0-9_-]{20,}",
    re.DOTALL,
)
"""Private keys, bearer headers, our tokens, tokens of Vault and OpenBao."""

EventDict = MutableMapping[str, Any]


def setup_logging(level: str = "info", *, json: bool = True, stream: TextIO | None = None) -> None:
    """Send the logs of this process and its libraries to stderr. May be repeated; the last call counts."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        redact,
    ]
    render: Processor = (
        structlog.processors.JSONRenderer(serializer=_to_json) if json else structlog.dev.ConsoleRenderer(colors=False)
    )
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render]
        )
    )
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def redact(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Take secrets out of a log line, and bound its fields."""
    for name, value in event.items():
        if not name.startswith("_"):  # structlog's own
            event[name] = _clean(name, value)
    return event


def _clean(name: str, value: object) -> object:
    if value and (_names_secret(name) if len(name) < LONG_NAME else _says_secret(name)):
        return REDACTED
    if isinstance(value, _PLAIN):
        return value
    if not isinstance(value, str):  # most are; this is on the path of every audit line
        if isinstance(value, msgspec.Struct):
            value = {field: getattr(value, field) for field in value.__struct_fields__}
        if isinstance(value, Mapping):
            return {str(k): _clean(str(k), v) for k, v in value.items()}
        # A named tuple (Ref and its like) has words of its own.
        if isinstance(value, _SEVERAL) and not hasattr(value, "_fields"):
            return [_clean(name, item) for item in value]
    text = _SECRET_TEXT.sub(REDACTED, str(value))
    return text if len(text) <= MAX_FIELD else f"{text[:MAX_FIELD]}… ({len(text)} characters)"


def _says_secret(field: str) -> bool:
    return field.lower().replace("_", "").replace("-", "").endswith(_SECRET_FIELDS)


LONG_NAME = 64
"""Names of fields are words of ours, and remembered; a name out of somebody's data may be of any length."""
_names_secret = functools.lru_cache(maxsize=1024)(_says_secret)
_PLAIN = (bool, int, float, type(None))
_SEVERAL = (list, tuple, set, frozenset)


def _to_json(event: object, **_: object) -> str:
    return msgspec.json.encode(event, enc_hook=str).decode()


class Metric(NamedTuple):
    """One row of a package's metric table."""

    name: str
    """`holdfast_<package>_<what>_<unit>`; a counter's `_total` is added by the library."""
    help: str
    labels: tuple[str, ...] = ()
    """A label is always present."""
    buckets: tuple[float, ...] = ()
    """Of a histogram; empty: the library's."""


class Metrics:
    """A registry and what is in it. Each daemon makes one and hands it down; nothing is global."""

    content_type = "text/plain; version=0.0.4; charset=utf-8"
    """Of the scrape page (Prometheus' text exposition format)."""

    def __init__(self, *, process: bool = False) -> None:
        from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector

        self.registry = CollectorRegistry(auto_describe=True)
        if process:
            ProcessCollector(registry=self.registry)
            PlatformCollector(registry=self.registry)

    def counter(self, row: Metric) -> "Counter":
        from prometheus_client import Counter

        return Counter(_checked(row), row.help, row.labels, registry=self.registry)

    def gauge(self, row: Metric) -> "Gauge":
        from prometheus_client import Gauge

        return Gauge(_checked(row), row.help, row.labels, registry=self.registry)

    def histogram(self, row: Metric) -> "Histogram":
        from prometheus_client import Histogram

        buckets = row.buckets or Histogram.DEFAULT_BUCKETS
        return Histogram(_checked(row), row.help, row.labels, registry=self.registry, buckets=buckets)

    def page(self) -> bytes:
        """The scrape page."""
        from prometheus_client import exposition

        return exposition.generate_latest(self.registry)


def _checked(row: Metric) -> str:
    if not row.name.startswith("holdfast_"):
        raise ValueError(f"metric {row.name}: names start with holdfast_")
    return row.name


class HealthPage(NamedTuple):
    """An answer for /healthz or /readyz."""

    status: int
    body: bytes


def health_page(faults: Mapping[str, str], order: Sequence[str] = ()) -> HealthPage:
    """200 if no check has a fault, else 503. `faults`: name of the check -> what is wrong, or ""."""
    names = [*order, *sorted(set(faults) - set(order))]
    checks = {name: faults.get(name, "") or "ok" for name in names}
    fine = all(verdict == "ok" for verdict in checks.values())
    return HealthPage(200 if fine else 503, msgspec.json.encode({"ok": fine, "checks": checks}))
