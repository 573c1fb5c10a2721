"""What this host's proxy would do with a call, for `holdfast explain`: from the configuration that is offered to it.

The simulator is loaded when somebody asks first: it is 1 MB, and most hosts are never asked.
"""

import asyncio
from collections.abc import Callable
from typing import TypeVar

import msgspec

from agent.pipeline import Offer
from mesh import codec
from mesh import compile as mesh_compile
from mesh.model.explained import AnswerQuestion, CallQuestion

T = TypeVar("T", CallQuestion, AnswerQuestion)


class ExplainError(Exception):
    """The question cannot be answered, with the reason."""


class Explainer:
    def __init__(self, present: Callable[[], Offer | None]) -> None:
        self._present = present

    async def call(self, body: str) -> str:
        """A local application's call: CallQuestion -> Called."""
        return await asyncio.to_thread(self._answer, _read(CallQuestion, body))

    async def answer(self, body: str) -> str:
        """A call that reaches this host: AnswerQuestion -> Answered."""
        return await asyncio.to_thread(self._answer, _read(AnswerQuestion, body))

    def _answer(self, asked: CallQuestion | AnswerQuestion) -> str:
        from mesh.compile import explain, simulate

        offer = self._present()
        if offer is None:
            raise ExplainError("this host has not compiled anything yet")
        view = mesh_compile.project(offer.world, offer.local)
        present = explain.Present(offer.snapshot, view.frame, offer.world, offer.local)
        try:
            found = explain.call(present, asked) if isinstance(asked, CallQuestion) else explain.answer(present, asked)
        except (explain.CannotExplainError, simulate.Unsupported) as exc:
            raise ExplainError(str(exc)) from exc
        return msgspec.json.encode(found).decode()


def _read(struct: type[T], body: str) -> T:
    try:
        return codec.decode_struct(struct, body)
    except codec.Undecodable as exc:
        raise ExplainError(f"the question cannot be read: {exc}") from exc
