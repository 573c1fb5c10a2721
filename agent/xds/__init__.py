"""Envoy's configuration server: delta ADS (with SDS in it) on one unix socket.

    server    gRPC, one Connection per Envoy; publish(snapshot) never blocks
    stream    what one Envoy holds, what it must get next, in which order (pure)
    subscription   one type's part of that (pure)
    wire      protobuf bytes <-> Request, Send (pure)

A snapshot is consistent as a whole; `stream` walks UPDATE_ORDER so that it is never seen in a broken order.
"""
