"""Bytes and documents <-> Structs.

    wire       what is stored and sent: lenient to read, so that neighbouring versions live together
    strict     what people write: every violation with its path, unknown fields included
    corev1     core v1 Service and Namespace, mapped to ours
    documents  YAML text -> plain trees, bounded

All pure. A new kind needs nothing here.
"""

from mesh.codec.documents import MAX_TEXT, BadDocument, load_json, load_yaml
from mesh.codec.strict import convert_strict, decode_strict
from mesh.codec.wire import (
    StoredEvent,
    Undecodable,
    changes,
    decode,
    decode_struct,
    encode,
    encode_struct,
    epoch,
    to_document,
)

__all__ = [
    "MAX_TEXT",
    "BadDocument",
    "StoredEvent",
    "Undecodable",
    "changes",
    "convert_strict",
    "decode",
    "decode_strict",
    "decode_struct",
    "encode",
    "encode_struct",
    "epoch",
    "load_json",
    "load_yaml",
    "to_document",
]
