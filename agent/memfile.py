"""Files that lie in memory and in no file system: for libraries that take a private key by the name of a file only.

The name leads through /proc/<pid>/fd, which opens for this process's own user and root alone. Nothing is left behind,
whatever ends the process.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def opened(content: bytes) -> Iterator[int]:
    """The descriptor of a file with this content, at its beginning. Only children that it is passed to get it."""
    descriptor = os.memfd_create("holdfast", os.MFD_CLOEXEC)
    try:
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.write(content)
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def named(content: bytes) -> Iterator[str]:
    """The same by a name that holds in this process."""
    with opened(content) as descriptor:
        yield f"/proc/self/fd/{descriptor}"
