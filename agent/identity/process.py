"""Exchanges with the CA in a short process of their own: `python -m agent.identity.process`, one order on stdin, its
outcome on stdout. Keys travel through pipes only.
"""

import asyncio
import sys

import msgspec

from agent.identity.orders import Order, Outcome
from mesh.lean import lean

LIMIT = 120.0
"""Seconds for one exchange, all control-plane nodes tried."""


async def run(order: Order) -> Outcome:
    """Let a helper process do it; a helper that fails is a failed exchange."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "agent.identity.process",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(LIMIT):
            out, err = await process.communicate(msgspec.json.encode(order))
    except TimeoutError:
        return Outcome(error=f"no control-plane node gave an answer within {LIMIT:.0f} s")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    try:
        return msgspec.json.decode(out, type=Outcome)
    except msgspec.MsgspecError:
        words = err.decode("utf-8", "replace").strip().splitlines()
        return Outcome(error=f"the helper failed ({process.returncode}): {words[-1][:300] if words else 'no words'}")


def main() -> None:
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    sys.stdout.buffer.write(msgspec.json.encode(_done(order)))


def _done(order: Order) -> Outcome:
    if order.key:
        # As exchange.run has it, without what asks a CA: that takes longer to load than to make a key.
        from ca.keys import new_key

        return Outcome(key_pem=new_key())
    with lean():
        from agent.identity import exchange
    return asyncio.run(exchange.run(order))


if __name__ == "__main__":
    main()
