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


MAX_WAITING = 8
"""Questions under way, of which one is worked on; whoever comes beyond that is told to come again."""


class Explainer:
    """One question at a time: each costs a projection of the world, in threads that the agent's own compiles need."""

    def __init__(self, present: Callable[[], Offer | None]) -> None:
        self._present = present
        self._one, self._waiting = asyncio.Lock(), 0
        self._thread: asyncio.Future[str] | None = None
        """An answer that is made, also when nobody waits for it any more."""

    async def call(self, body: str) -> str:
        """A local application's call: CallQuestion -> Called."""
        return await self._alone(_read(CallQuestion, body))

    async def answer(self, body: str) -> str:
        """A call that reaches this host: AnswerQuestion -> Answered."""
        return await self._alone(_read(AnswerQuestion, body))

    async def _alone(self, asked: CallQuestion | AnswerQuestion) -> str:
        if self._waiting >= MAX_WAITING:
            raise ExplainError(f"{self._waiting} others wait for an answer of this host; try again")
        self._waiting += 1
        try:
            async with self._one:
                if self._thread is not None and not self._thread.done():
                    await asyncio.wait([self._thread])
                self._thread = asyncio.get_running_loop().run_in_executor(None, self._answer, asked)
                self._thread.add_done_callback(lambda done: done.cancelled() or done.exception())
                return await asyncio.shield(self._thread)
        finally:
            self._waiting -= 1

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
