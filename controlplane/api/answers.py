"""JSON in and out. Every error has the same shape: {"error": ..., "hint": ..., "violations": [...]}."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from mesh import codec
from mesh.model import Violation

T = TypeVar("T")


class ApiError(Exception):
    """An answer other than success."""

    def __init__(
        self,
        status: int,
        error: str,
        hint: str = "",
        *,
        violations: Sequence[Violation] = (),
        retry_after: float = 0.0,
        more: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(error)
        self.status, self.error, self.hint = status, error, hint
        self.violations, self.retry_after, self.more = tuple(violations), retry_after, dict(more or {})

    def response(self) -> web.Response:
        body: dict[str, object] = {"error": self.error, "hint": self.hint, **self.more}
        if self.violations:
            body["violations"] = [
                {"object": fault.object, "path": fault.path, "reason": fault.reason} for fault in self.violations
            ]
        headers = {"Retry-After": str(max(1, round(self.retry_after)))} if self.retry_after else None
        return answer(body, status=self.status, headers=headers)


class NotLetInError(ApiError):
    """The caller proved nothing that counts: no credentials, bad ones, or those of a node that is not welcome."""


def answer(body: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(body) + b"\n",
        status=status,
        content_type="application/json",
        headers=dict(headers or {}),
    )


async def tree(request: web.Request) -> Any:
    """The parsed body."""
    raw = await request.read()
    if not raw:
        raise ApiError(400, "the request has no body", "send a JSON document")
    try:
        return codec.load_json(raw)
    except codec.BadDocument as exc:
        raise ApiError(400, f"the body cannot be read: {exc}", "send one JSON document in UTF-8") from exc


async def strict(request: web.Request, struct: type[T]) -> T:
    """What an operator sent: every unknown field and wrong type is told."""
    outcome = codec.convert_strict(struct, await tree(request))
    if isinstance(outcome, tuple):
        raise ApiError(422, "the request is not valid", "correct what is listed", violations=outcome)
    return outcome


async def lenient(request: web.Request, struct: type[T]) -> T:
    """What an agent sent: it may be of another version."""
    try:
        return codec.decode_struct(struct, await request.read())
    except codec.Undecodable as exc:
        raise ApiError(400, f"the body cannot be read: {exc}", "agent and control plane may be too far apart") from exc


def number(request: web.Request, name: str, default: int = 0) -> int:
    """A whole, not negative number in the query."""
    text = request.query.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise ApiError(400, f"{name} must be a whole number", f"it was {text[:40]!r}")
    return int(text)
