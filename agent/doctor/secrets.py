"""Takes out what is secret, before anything goes into a dump. Pure: text or tree in, the same without secrets out.

Three nets, one behind the other, since each has holes:

    by name    fields, headers and arguments that are called like a secret lose their value
    by looks   private keys, tokens of ours, of Vault and of the web, passwords in URLs, headers in running text
    by heart   what this host itself holds as a secret, letter by letter, wherever it stands
"""

import base64
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

GONE = "[removed]"

_NAMES = re.compile(
    r"(pass(word|wd|phrase)|secret|token|credential|api[-_]?key|private[-_]?key|key[-_]?pem|cookie|authorization"
    r"|session[-_]?(id|key)|x-.*-(auth|key)|hmac|ticket[-_]?key|signing[-_]?key|access[-_]?key)[a-z0-9]*$",
    re.IGNORECASE,
)
"""A name that ends so is of a secret: `clientSecret`, `X-Vault-Token`, `Set-Cookie`."""

_HARMLESS = re.compile(r"(^|[-_.])(token[-_]?file|secret[-_]?name|dynamic.*secrets|static.*secrets)$", re.IGNORECASE)

_PIECES = ("key", "name", "header_name", "header", "headerName")
"""Of a pair: `{"key": "authorization", "value": ...}`."""

_KEY = r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
_WORD = r"[^\s'\",;&\\]+"
_LOOKS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(_KEY, re.DOTALL), GONE),
    (re.compile(r"\bhf[a-z]?[0-9]\.[A-Za-z0-9_.-]+"), GONE),
    (re.compile(r"\b(?:hv[sbr]|s|b)\.[A-Za-z0-9_-]{20,}"), GONE),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]*"), GONE),
    (re.compile(r"(?i)\b(bearer|basic|negotiate)\s+[A-Za-z0-9+/=_.~-]{4,}"), rf"\1 {GONE}"),
    (re.compile(r"(?i)\b((?:set-)?cookie|(?:proxy-)?authorization)(['\"]?\s*[:=]\s*).*"), rf"\1\2{GONE}"),
    (re.compile(r"([a-z][a-z0-9+.-]*://)[^\s/@:'\"]*:[^\s/@'\"]+@"), rf"\1{GONE}@"),
    (
        re.compile(
            r"(?i)((?:[a-z0-9_.-]*(?:password|passwd|passphrase|secret|token|api[-_]?key|credential|access[-_]?key))"
            rf"['\"]?\s*[:=]\s*['\"]?){_WORD}"
        ),
        rf"\1{GONE}",
    ),
    (
        re.compile(rf"(?i)(--?[a-z0-9-]*(?:password|passwd|passphrase|secret|token|api-?key|credential)\s+){_WORD}"),
        rf"\1{GONE}",
    ),
)

MIN_KNOWN = 8
"""Characters. What is shorter than this stands in too many harmless places."""


def tree(value: Any) -> Any:
    """JSON or YAML without its secrets, by their names and by their looks."""
    if isinstance(value, Mapping):
        if any(isinstance(value.get(piece), str) and _is_secret(value[piece]) for piece in _PIECES):
            return {k: v if k in _PIECES else _blank(v) for k, v in value.items()}
        return {
            _name(k): _blank(v) if _is_secret(str(k)) and not _is_resource(v) else tree(v) for k, v in value.items()
        }
    if isinstance(value, list | tuple):
        return _arguments(value)
    return text(value) if isinstance(value, str) else value


def _is_resource(value: Any) -> bool:
    """Envoy's Secret has a name and certificates besides, which tell what it is; its key is `private_key`."""
    return (
        isinstance(value, Mapping) and str(value.get("@type", "")).endswith(".Secret") and "generic_secret" not in value
    )


def _name(key: Any) -> Any:
    """What is no JSON may have been made some, and have its lines for names."""
    return text(key) if isinstance(key, str) else key


def _is_secret(name: str) -> bool:
    return bool(_NAMES.search(name)) and not _HARMLESS.search(name)


def _blank(value: Any) -> Any:
    """Nothing of it but its shape: whether it was set stays visible."""
    if isinstance(value, Mapping):
        return {k: _blank(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_blank(v) for v in value]
    return GONE if isinstance(value, str) and value else value if isinstance(value, bool) else GONE if value else value


def _arguments(words: Iterable[Any]) -> list[Any]:
    """A command's words: what follows `--password` is one, as is what it is set to."""
    found: list[Any] = []
    hide = False
    for word in words:
        if not isinstance(word, str):
            found.append(tree(word))
            hide = False
            continue
        name, equals, _ = word.partition("=")
        flag = name.startswith("-") and _is_secret(name)
        found.append(GONE if hide else f"{name}={GONE}" if equals and _is_secret(name) else text(word))
        hide = not hide and ((flag and not equals) or word in {"-u", "--user"})
    return found


def text(value: str) -> str:
    """Lines without what looks like a secret."""
    for pattern, instead in _LOOKS:
        value = pattern.sub(instead, value)
    return value


def document(raw: bytes) -> bytes:
    """JSON without its secrets; what is no JSON is text."""
    try:
        parsed = json.loads(raw)
    except ValueError:
        return text(raw.decode(errors="replace")).encode()
    return json.dumps(tree(parsed), indent=1, ensure_ascii=False).encode() + b"\n"


def by_heart(secrets: Iterable[str]) -> tuple[str, ...]:
    """All forms in which these may stand somewhere, the longest first: whole, line by line, in base64, escaped."""
    found: set[str] = set()
    for secret in secrets:
        for form in (secret, secret.strip(), *secret.splitlines()):
            found.update((form, form.replace("\n", "\\n"), *_base64(form)))
    marks = ("-----BEGIN", "-----END")
    return tuple(sorted((f for f in found if len(f) >= MIN_KNOWN and not _is_mark(f, marks)), key=len, reverse=True))


def _is_mark(form: str, marks: tuple[str, ...]) -> bool:
    """A line that every key has."""
    return form.startswith(marks) and "\n" not in form and "\\n" not in form and form.endswith("-----")


def _base64(form: str) -> Iterable[str]:
    """As it would stand in the middle of something longer, at each of three offsets; the ends depend on neighbours."""
    raw = form.encode()
    for offset in range(3):
        whole = base64.b64encode(b"\0" * offset + raw).decode().rstrip("=")
        yield whole[4 if offset else 0 : -2]


def forget(raw: bytes, known: Iterable[str]) -> bytes:
    """Without any of these."""
    for secret in known:
        raw = raw.replace(secret.encode(), GONE.encode())
    return raw
