"""The exceptions that leave a store. Each names what was tried; the client library's own error is the cause."""


class StoreError(Exception):
    """Base of all of them."""


class Conflict(StoreError):  # noqa: N818 - the field's word
    """A compare of a transaction did not hold; nothing was written."""


class Compacted(StoreError):  # noqa: N818
    """The revision asked for is gone; list again."""


class Unavailable(StoreError):  # noqa: N818
    """No answer, or none with a quorum behind it. The write may or may not have happened."""


class Refused(StoreError):  # noqa: N818
    """The store will never do this: not permitted, too large, or malformed. Retrying is pointless."""
