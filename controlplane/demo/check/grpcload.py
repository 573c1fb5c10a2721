"""A steady load of gRPC calls, with the same exact accounts as that of HTTP/1.1 requests."""

import asyncio
from typing import Any

from controlplane.demo.apps import GRPC_METHOD, GRPC_SERVICE
from controlplane.demo.check.load import Load, spoken

METHOD = f"/{GRPC_SERVICE}/{GRPC_METHOD}"
FRESH_EVERY = 10
"""A channel of its own for so many of them, since one takes far longer to open than a call does."""


class GrpcLoad(Load):
    """Over HTTP/2 without TLS, to a local port of the caller's proxy."""

    _kept: Any = None

    async def run(self) -> None:
        """Send until cancelled. What is under way then is finished first."""
        self._kept = self._channel()
        try:
            await super().run()
        finally:
            await self._kept.close()

    def _channel(self) -> Any:
        import grpc.aio

        # Never repeated by the client, and no connection shared with another channel: one call, one outcome.
        options = (("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))
        return grpc.aio.insecure_channel(f"{self.host}:{self.port}", options=options)

    async def _one(self, number: int, *, fresh: bool) -> None:
        import grpc

        sent = asyncio.get_running_loop().time()
        self._under_way[number] = sent
        fresh = number % FRESH_EVERY == 0
        channel = self._channel() if fresh else self._kept
        try:
            call = channel.unary_unary(METHOD)
            body = await call(b"{}", timeout=self.timeout, metadata=(("x-demo", str(number)),))
            self._note(sent, fresh, 200, said=spoken(body))
        except grpc.aio.AioRpcError as exc:
            self._note(sent, fresh, 0, error=f"{exc.code().name}: {(exc.details() or '')[:160]}")
        finally:
            if fresh:
                await channel.close()
            del self._under_way[number]
