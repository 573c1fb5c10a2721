"""The signer's contract: what holds a root, and signs intermediates with it.

A signer is asked seldom (at start, and at a third of an intermediate's life), so an outage of it stops nothing.
All methods have a time limit of their own, may be called concurrently, and raise nothing but the two errors below.
"""

from typing import Protocol


class SignerError(Exception):
    """Base of both. Never carries a token or a key."""


class SignerUnavailable(SignerError):  # noqa: N818 - the field's word
    """Away, sealed, or no answer in time. Try again later with the same request."""


class SignerRefused(SignerError):  # noqa: N818
    """It will not do this: not permitted, not configured, or the request is bad. An operator must act."""


class Signer(Protocol):
    """Who makes a signer closes it."""

    async def sign_intermediate(self, csr_pem: str, ttl: float) -> str:
        """A certificate for the CSR's key that may sign leaves, for at most ttl seconds.

        PEM: the intermediate, then what lies between it and the root, without the root. May be called again with the
        same CSR. The caller verifies what it gets; a signer is not trusted to have kept the contract.
        """

    async def roots(self) -> tuple[str, ...]:
        """The roots (PEM) that chains of this signer lead to; the one that signs now first."""

    async def close(self) -> None:
        """Release connections. May be repeated."""
