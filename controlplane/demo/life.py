"""What is started as a whole and leaves nothing behind, however it ends."""

import abc
from types import TracebackType
from typing import Self

from controlplane.demo.progress import Progress


class Life(abc.ABC):
    """`async with` it: up inside, gone afterwards; what was half up as its start failed is gone, too."""

    progress: Progress

    @abc.abstractmethod
    async def start(self) -> None:
        """Return once all of it is up."""

    @abc.abstractmethod
    async def stop(self) -> None:
        """Stop whatever runs of it. May be repeated."""

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self.progress.stage("stop"):
            await self.stop()
