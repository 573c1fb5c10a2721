"""Takes out what is secret, before anything goes into a dump. Pure: text or tree in, the same without secrets out.

Three nets, one behind the other, since each has holes:

    by name    fields, headers and arguments that are called like a secret lose their value
    by looks   private keys, tokens of ours, of Vault and of the web, passwords in URLs, headers in running text
    by heart   what this host itself holds as a secret, letter by letter, wherever it stands
"""

import base64
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import msgspec

GONE = "[removed]"

_NAMES = re.compile(
    r"((pass(word|wd|phrase|code)|secret|token|credential|api[-_]?key|private[-_]?key|key[-_]?pem|cookie|authorization"
    r"|session[-_]?(id|key)|x-(.*-)?(auth|key)|hmac|(?<![a-z])psk"
    r"|(ticket|signing|access|encryption|master|shared|account)[-_]?key)[a-z0-9]*([-_](key|id|base|value|v?[0-9]+))*"
    r"|((?<![a-z])pass|(?-i:Pass)|pwd)([-_]?[0-9])*)$",
    re.IGNORECASE,
)
"""A name that ends so is of a secret: `clientSecret`, `X-Vault-Token`, `Set-Cookie`, `SECRET_KEY_BASE`, `token_2`."""

_HARMLESS = re.compile(r"(^|[-_.])(token[-_]?file|secret[-_]?name|dynamic.*secrets|static.*secrets)$", re.IGNORECASE)

_PIECES = ("key", "name", "header_name", "header", "headerName")
"""Of a pair: `{"key": "authorization", "value": ...}`."""

_KEY = r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
_WORD = r"[^\s'\",;&\\]+"
_VALUE = rf"""(?:"(?:\\.|[^"\\\n])*"?|'[^'\n]*'?|\\+["'][^"'\n]*|{_WORD})"""
"""In quotes, also in escaped ones (JSON within a text): all that they hold. Else one word."""
_IS = r"\\*['\"]?\s*[:=]\s*"
_KEYS = ("api", "access", "private", "signing", "encryption", "master", "shared", "account")
_CALLED = (
    *("password", "passwd", "passphrase", "secret", "token", "credential"),
    *(f"{kind}{joint}key" for kind in _KEYS for joint in ("", "-", "_")),
)
_ANY = "|".join(_CALLED)
_MORE = r"[a-z0-9]*(?:[-_](?:key|id|base|value|v?[0-9]+))*"
"""What may follow: `SECRET_KEY_BASE`, `secret_id`, `token_2`."""
_SHORT_CALLED = ("pass", "pwd")
"""So short that a name has to end with them: `DB_PASS`, not `passed`."""
_ISSUED = ("glpat-", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "xox")
"""How tokens of GitLab, GitHub and Slack begin."""
_LOOKS: tuple[tuple[tuple[str, ...], re.Pattern[str], str], ...] = (
    (("private key",), re.compile(_KEY, re.DOTALL), GONE),
    (("hf",), re.compile(r"\bhf[a-z]?[0-9]\.[A-Za-z0-9_.-]+"), GONE),
    (("hvs.", "hvb.", "hvr.", "s.", "b."), re.compile(r"\b(?:hv[sbr]|s|b)\.[A-Za-z0-9_-]{20,}"), GONE),
    (("eyj",), re.compile(r"\beyJ[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]*"), GONE),
    (
        ("bearer", "basic", "negotiate"),
        re.compile(r"(?i)\b(bearer|basic|negotiate)\s+[A-Za-z0-9+/=_.~-]{4,}"),
        rf"\1 {GONE}",
    ),
    (
        ("cookie", "authorization"),
        re.compile(r"(?i)(cookie|authorization)(['\"]?\s*[:=]\s*).*"),
        rf"\1\2{GONE}",
    ),
    (("://",), re.compile(r"(://)[^\s/@:'\"]*:[^\s/@'\"]+@"), rf"\1{GONE}@"),
    (_CALLED, re.compile(rf"(?i)((?:{_ANY}){_MORE}{_IS}){_VALUE}"), rf"\1{GONE}"),
    (_CALLED, re.compile(rf"(?i)((?<![^\s'\"])--?[a-z0-9-]{{0,40}}?(?:{_ANY}){_MORE}\s+){_VALUE}"), rf"\1{GONE}"),
    (_SHORT_CALLED, re.compile(rf"(?i)((?:(?<![a-z])pass|pwd)(?:_?[0-9])*{_IS}){_VALUE}"), rf"\1{GONE}"),
    (_SHORT_CALLED, re.compile(rf"(?i)((?<![^\s'\"])--(?:[a-z0-9]+-)?(?:pass|pwd)\s+){_VALUE}"), rf"\1{GONE}"),
    (("-u", "--user"), re.compile(rf"((?<![^\s'\"])(?:-u|--user)[\s=]['\"]?){_WORD}:{_WORD}"), rf"\1{GONE}"),
    (("signature=", "sig="), re.compile(rf"(?i)((?:signature|[?&]sig)=){_WORD}"), rf"\1{GONE}"),
    (_ISSUED, re.compile(r"\b(?:glpat-|gh[pousr]_|github_pat_|xox[abeprs]-)[A-Za-z0-9_-]{8,}"), GONE),
)
"""Words of which one is in it, in lower case, where the pattern fits; the pattern; what stands there instead. Most text
has none of the words, and patterns cost a hundred times as much to look for."""

SHORT = 200
"""Characters of a text that is remembered."""

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


@lru_cache(maxsize=20_000)
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
    return _short(value) if len(value) < SHORT else _text(value)


def _text(value: str) -> str:
    lower = value.lower()
    for words, pattern, instead in _LOOKS:
        if any(word in lower for word in words):
            value = pattern.sub(instead, value)
    return value


_short = lru_cache(maxsize=20_000)(_text)
"""A configuration says the same few thousand words over and over."""


def document(raw: bytes) -> bytes:
    """JSON without its secrets; what is no JSON is text."""
    try:
        parsed = msgspec.json.decode(raw)
    except msgspec.DecodeError:
        return text(raw.decode(errors="replace")).encode()
    return msgspec.json.format(msgspec.json.encode(tree(parsed)), indent=1) + b"\n"


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
