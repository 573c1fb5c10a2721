"""What this host's proxy would do with a call, for `holdfast explain`: from the configuration that is offered to it."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

import msgspec

from agent.pipeline import Offer
from mesh import codec
from mesh import compile as mesh_compile
from mesh.compile import explain, simulate
from mesh.compile.explain import Present
from mesh.model.explained import AnswerQuestion, CallQuestion

T = TypeVar("T", CallQuestion, AnswerQuestion)


class ExplainError(Exception):
    """The question cannot be answered, with the reason."""


class Explainer:
    def __init__(self, present: Callable[[], Offer | None]) -> None:
        self._present = present

    async def call(self, body: str) -> str:
        """A local application's call: CallQuestion -> Called."""
        asked = _read(CallQuestion, body)
        return await asyncio.to_thread(self._answer, lambda present: explain.call(present, asked))

    async def answer(self, body: str) -> str:
        """A call that reaches this host: AnswerQuestion -> Answered."""
        asked = _read(AnswerQuestion, body)
        return await asyncio.to_thread(self._answer, lambda present: explain.answer(present, asked))

    def _answer(self, find: Callable[[Present], msgspec.Struct]) -> str:
        offer = self._present()
        if offer is None:
            raise ExplainError("this host has not compiled anything yet")
        view = mesh_compile.project(offer.world, offer.local)
        try:
            found = find(Present(offer.snapshot, view.frame, offer.world, offer.local))
        except (explain.CannotExplainError, simulate.Unsupported) as exc:
            raise ExplainError(str(exc)) from exc
        return msgspec.json.encode(found).decode()


def _read(struct: type[T], body: str) -> T:
    try:
        return codec.decode_struct(struct, body)
    except codec.Undecodable as exc:
        raise ExplainError(f"the question cannot be read: {exc}") from exc
