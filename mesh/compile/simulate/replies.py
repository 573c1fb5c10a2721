"""Answers of the proxy itself, after its local reply configuration, and in gRPC's form for gRPC."""

from dataclasses import replace
from typing import Any

from mesh import pb
from mesh.compile.simulate.fields import known
from mesh.compile.simulate.filters import Passing
from mesh.compile.simulate.formats import BODY, STATUS, Metadata, formatted
from mesh.compile.simulate.headers import changes_of
from mesh.compile.simulate.verdict import Deny, Direct, Edits, Fault, NoRoute, Redirect, Unsupported

_GRPC = {400: 13, 401: 16, 403: 7, 404: 12, 429: 14, 502: 14, 503: 14, 504: 14}
"""HTTP's status -> gRPC's (grpc/doc/http-grpc-status-mapping.md); 2, unknown, for all others."""

_FLAGS = {NoRoute: "NR", Fault: "FI"}

Reply = Deny | Direct | Fault | NoRoute | Redirect


def sent(hcm: Any, reply: Reply, passing: Passing, *, grpc: bool) -> Reply:
    """As it leaves the proxy."""
    reply = replace(reply, cors=passing.cors)
    known(hcm.local_reply_config)
    mapper = next((m for m in hcm.local_reply_config.mappers if _is_for(m, reply)), None)
    if mapper is not None:
        known(mapper)
        reply = _mapped(mapper, reply, passing.metadata)
    if grpc and reply.grpc_status is None:
        reply = replace(reply, grpc_status=_GRPC.get(reply.status, 2))
    return reply


def _is_for(mapper: Any, reply: Reply) -> bool:
    known(mapper.filter)
    kind = mapper.filter.WhichOneof("filter_specifier")
    if kind == "response_flag_filter":
        flags = mapper.filter.response_flag_filter.flags
        return _FLAGS.get(type(reply), "") in flags if flags else type(reply) in _FLAGS
    comparison = mapper.filter.status_code_filter.comparison
    wanted = comparison.value.default_value
    operators = pb.AccessLogFilter.DESCRIPTOR.file.message_types_by_name["ComparisonFilter"].enum_types_by_name["Op"]
    match operators.values_by_number[comparison.op].name:
        case "EQ":
            return bool(reply.status == wanted)
        case "GE":
            return bool(reply.status >= wanted)
        case "LE":
            return bool(reply.status <= wanted)
        case other:
            raise Unsupported("envoy.config.accesslog.v3.ComparisonFilter.op", other)


def _mapped(mapper: Any, reply: Reply, metadata: Metadata) -> Reply:
    # Headers are made before the status changes, the body after that.
    said = {STATUS: str(reply.status)}
    changes = tuple(changes_of(mapper.headers_to_add, lambda text: formatted(text, metadata, said)))
    edits = (Edits("local reply", changes=changes),) if changes else ()
    status = mapper.status_code.value if mapper.HasField("status_code") else reply.status
    reply = replace(reply, status=status, response=reply.response + edits)
    if not isinstance(reply, Direct):  # of the others, no body is told
        return reply
    if mapper.HasField("body"):
        known(mapper.body)
        reply = replace(reply, body=mapper.body.inline_string)
    if mapper.HasField("body_format_override"):
        known(mapper.body_format_override)
        known(mapper.body_format_override.text_format_source)
        text = mapper.body_format_override.text_format_source.inline_string
        said = {STATUS: str(status), BODY: reply.body}
        reply = replace(reply, body=formatted(text, metadata, said, missing="-"))
    return reply
