"""Connections to several members (or gates), and which of them is asked.

One connection a member, so that we choose: the one that answered last is asked first. One that failed or stayed silent
is asked last for a while. A request is sent only over a connection that stands, so that "not sent" is known and not
guessed; what may have been carried out already is sent again only if running twice does no harm.
"""

import asyncio
import ipaddress
import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import grpc
from grpc.aio import AioRpcError, Channel, UsageError

from mesh.store.errors import StoreError, Unavailable
from mesh.store.etcd.faults import classify, details

MAX_RECEIVE_BYTES = 64 * 2**20
"""gRPC's default of 4 MiB would break a large list or a long resume for ever."""

SUSPECT_SECONDS = 5.0
CONNECT_SECONDS = 1.5
PAUSE_SECONDS = 0.05
"""Between two rounds over all members."""

HAS_LEADER = (("hasleader", "true"),)
"""A member that has lost its leader then refuses at once, instead of going quiet."""

_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", MAX_RECEIVE_BYTES),
    # etcd cuts who pings more often than every 5 s, or pings with no stream open.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_500),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # Channels with equal options would share one connection; a watch must have its own.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
)


class Tls(NamedTuple):
    """What we trust, and who we are. PEM."""

    ca_pem: bytes
    cert_pem: bytes | None = None
    key_pem: bytes | None = None


class Answer(NamedTuple):
    message: Any
    """A message of aetcd.rpc."""
    repeated: bool
    """An earlier try of the same request may have been carried out too."""


class NotSentError(Exception):
    """No connection stands, so nothing was sent."""


class Member:
    """One address, and the connection for requests to it."""

    def __init__(self, address: str, credentials: grpc.ChannelCredentials, server_name: str) -> None:
        self.address = address
        self.suspect_until = 0.0
        self._credentials, self._server_name = credentials, server_name
        self._channel: Channel | None = None
        self._stubs: dict[type, Any] = {}

    def dial(self) -> Channel:
        """Open a new connection."""
        options = (*_OPTIONS, ("grpc.ssl_target_name_override", self._server_name))
        return grpc.aio.secure_channel(target(self.address), self._credentials, options=options)

    def renew(self, credentials: grpc.ChannelCredentials) -> Channel | None:
        """New connections use these. Returns the old connection, to be closed by the caller."""
        self._credentials = credentials
        old, self._channel, self._stubs = self._channel, None, {}
        return old

    async def call(self, service: type, method: str, request: object, *, connect: float, timeout: float) -> Any:  # noqa: ASYNC109 - gRPC has deadlines of its own
        """One try.

        Raises:
            NotSentError: no connection within `connect` seconds.
            AioRpcError: as gRPC says.

        """
        if self._channel is None:
            self._channel = self.dial()
        channel = self._channel
        await stands(channel, connect)
        if channel is not self._channel:
            raise NotSentError("the connection was replaced")
        if service not in self._stubs:
            self._stubs[service] = service(channel)
        return await getattr(self._stubs[service], method)(request, timeout=timeout, metadata=HAS_LEADER)

    async def close(self) -> None:
        channel, self._channel, self._stubs = self._channel, None, {}
        if channel is not None:
            await channel.close()


class Members:
    """All of them, asked one after the other until one answers or the time is over."""

    def __init__(
        self, endpoints: Sequence[str], *, tls: Tls, server_name: str, timeout: float, rng: random.Random
    ) -> None:
        if not endpoints:
            raise ValueError("no endpoints")
        self.timeout = timeout
        self._members = [Member(_bare(e), _credentials(tls), server_name) for e in endpoints]
        # Clients spread over the members by where each of them starts.
        rng.shuffle(self._members)
        self._retired: list[tuple[float, Channel]] = []
        """When they were replaced, and what may still carry requests."""
        self._closed = False

    def renew_tls(self, tls: Tls) -> None:
        """Swap the credentials; requests under way end on their old connection."""
        credentials, now = _credentials(tls), asyncio.get_running_loop().time()
        old = [member.renew(credentials) for member in self._members]
        self._retired += [(now, channel) for channel in old if channel is not None]

    async def call(self, service: type, method: str, request: object, *, repeatable: bool, what: str) -> Answer:
        """Ask until one answers.

        Args:
            service: The stub's class.
            method: Its method.
            request: The message.
            repeatable: Running it twice does no harm.
            what: For the error: what was tried.

        Raises:
            StoreError: as the table in `faults` says; Unavailable when the time is over.

        """
        loop = asyncio.get_running_loop()
        if self._retired:
            await self._close_retired(before=loop.time() - self.timeout)
        deadline, repeated, reason = loop.time() + self.timeout, False, "no time"
        while (now := loop.time()) < deadline and not self._closed:
            for place, member in enumerate(order := self._in_order(now)):
                remaining = deadline - loop.time()
                if remaining <= 0:
                    break
                share = remaining / (len(order) - place)
                try:
                    message = await member.call(
                        service,
                        method,
                        request,
                        connect=min(share, CONNECT_SECONDS),
                        timeout=share if repeatable else remaining,
                    )
                except NotSentError as exc:
                    reason = f"{member.address}: {exc}"
                except AioRpcError as exc:
                    fault = classify(exc)
                    reason = f"{member.address}: {details(exc)}"
                    if fault.next == "stop" or (fault.next == "maybe" and not repeatable):
                        self._suspect(member, fault.error)
                        raise fault.error(f"{what}: {reason}") from exc
                    repeated = repeated or fault.next == "maybe"
                else:
                    self._prefer(member)
                    return Answer(message, repeated)
                self._suspect(member, Unavailable)
            await asyncio.sleep(PAUSE_SECONDS)
        raise Unavailable(f"{what}: {'the store is closed' if self._closed else reason}")

    async def dial_watch(self, what: str) -> tuple[Channel, str]:
        """A connection of its own that stands, and its address.

        Raises:
            Unavailable: none could be made in time.

        """
        loop, reason = asyncio.get_running_loop(), "no time"
        deadline = loop.time() + self.timeout
        for member in self._in_order(loop.time()):
            remaining = deadline - loop.time()
            if remaining <= 0 or self._closed:
                break
            channel = member.dial()
            try:
                await stands(channel, min(remaining, CONNECT_SECONDS))
            except NotSentError as exc:
                reason = f"{member.address}: {exc}"
                self._suspect(member, Unavailable)
                await channel.close()
            except BaseException:
                await channel.close()
                raise
            else:
                return channel, member.address
        raise Unavailable(f"{what}: {reason}")

    def suspect(self, address: str) -> None:
        """A watch at this address broke: ask it last for a while."""
        for member in self._members:
            if member.address == address:
                self._suspect(member, Unavailable)

    async def close(self) -> None:
        self._closed = True
        await self._close_retired(before=asyncio.get_running_loop().time() + 1)
        for member in self._members:
            await member.close()

    async def _close_retired(self, *, before: float) -> None:
        """Close what was replaced before this moment: every request on it has ended."""
        over = [channel for when, channel in self._retired if when < before]
        self._retired = [(when, channel) for when, channel in self._retired if when >= before]
        for channel in over:
            await channel.close()

    def _in_order(self, now: float) -> list[Member]:
        return sorted(self._members, key=lambda member: member.suspect_until > now)

    def _prefer(self, member: Member) -> None:
        member.suspect_until = 0.0
        if self._members[0] is not member:
            self._members.sort(key=lambda other: other is not member)

    @staticmethod
    def _suspect(member: Member, error: type[StoreError]) -> None:
        # An answer that we do not like is still an answer.
        if error is Unavailable:
            member.suspect_until = asyncio.get_running_loop().time() + SUSPECT_SECONDS


async def stands(channel: Channel, seconds: float) -> None:
    """Wait until a connection stands.

    Raises:
        NotSentError: it does not, or not in time.

    """
    try:
        async with asyncio.timeout(seconds):
            while (state := channel.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
                if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                    raise NotSentError("cannot connect (refused, or TLS did not accept the other side)")
                if state is grpc.ChannelConnectivity.SHUTDOWN:
                    raise NotSentError("the connection was closed")
                await channel.wait_for_state_change(state)
    except TimeoutError as exc:
        raise NotSentError(f"no connection within {seconds:.1f} s") from exc
    except UsageError as exc:
        raise NotSentError("the connection was closed") from exc


def target(address: str) -> str:
    """An address as gRPC wants it."""
    host, _, _ = address.rpartition(":")
    try:
        version = ipaddress.ip_address(host.strip("[]")).version
    except ValueError:
        return f"dns:///{address}"
    return f"ipv{version}:{address}"


def _bare(endpoint: str) -> str:
    return endpoint.removeprefix("https://").rstrip("/")


def _credentials(tls: Tls) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(tls.ca_pem, tls.key_pem, tls.cert_pem)
