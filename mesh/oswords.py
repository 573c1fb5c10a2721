"""What the system says of a connection that failed, in its own words."""

import os
import ssl
from socket import gaierror


def words(exc: OSError) -> str:
    """Without the address, which asyncio puts there and who tells of it has said already."""
    match exc:
        case ssl.SSLCertVerificationError(verify_message=str(why)):
            return f"certificate verify failed: {why}"
        case ssl.SSLError():
            return str(exc)
        case gaierror():
            return f"its name cannot be resolved: {exc.strerror}"
        case OSError(errno=int(number)) if number:
            return os.strerror(number)
    return str(exc) or type(exc).__name__
