"""What Envoy starts with: where its agent is, its own limits, and which figures it keeps. Everything else is xDS."""

import json
from dataclasses import dataclass, field
from typing import Any

XDS_CLUSTER = "holdfast_agent"

# Two of Envoy's figures a cluster cost more memory than all else it knows of it (some 40 KB with all of them). Kept:
# what an operator, the agent or a dashboard asks for.
_KEEP_PREFIXES = (
    "server.",
    "cluster_manager.",
    "listener_manager.",
    "control_plane.",
    "overload.",
    "access_logs.",
    f"cluster.{XDS_CLUSTER}.upstream_cx_",
)
_KEEP_SUFFIXES = (
    # clusters
    ".upstream_cx_total",
    ".upstream_cx_active",
    ".upstream_cx_connect_fail",
    ".upstream_cx_connect_timeout",
    ".upstream_cx_overflow",
    ".upstream_cx_rx_bytes_total",
    ".upstream_cx_tx_bytes_total",
    ".upstream_rq_total",
    ".upstream_rq_active",
    ".upstream_rq_time",
    ".upstream_rq_retry",
    ".upstream_rq_retry_success",
    ".upstream_rq_retry_overflow",
    ".upstream_rq_timeout",
    ".upstream_rq_pending_overflow",
    ".upstream_rq_active_overflow",
    ".upstream_rq_2xx",
    ".upstream_rq_3xx",
    ".upstream_rq_4xx",
    ".upstream_rq_5xx",
    ".membership_total",
    ".membership_healthy",
    ".ejections_active",
    ".ejections_enforced_total",
    ".health_check.failure",
    # listeners, http, tcp
    ".downstream_cx_total",
    ".downstream_cx_active",
    ".downstream_cx_overflow",
    ".downstream_cx_overload_reject",
    ".downstream_cx_rx_bytes_total",
    ".downstream_cx_tx_bytes_total",
    ".downstream_rq_total",
    ".downstream_rq_active",
    ".downstream_rq_time",
    ".downstream_rq_2xx",
    ".downstream_rq_3xx",
    ".downstream_rq_4xx",
    ".downstream_rq_5xx",
    ".no_filter_chain_match",
    # identity and authorization
    ".allowed",
    ".denied",
    ".shadow_denied",
    ".ssl.handshake",
    ".ssl.connection_error",
    ".ssl.fail_verify_error",
    ".ssl.fail_verify_no_cert",
    ".ssl.fail_verify_san",
    ".update_rejected",
    ".update_success",
    ".key_rotation_failed",
)


@dataclass(frozen=True)
class BootstrapSettings:
    node: str
    """Id of this host."""
    cluster: str
    xds_socket: str
    admin_socket: str
    admin_mode: int = 0o660
    metadata: dict[str, str] = field(default_factory=dict)
    max_heap_bytes: int = 2 * 1024**3
    """At 95 % of it new requests are refused; before that, keep-alive ends and the heap is shrunk."""
    max_downstream_connections: int = 50_000
    reconnect_max_seconds: float = 1.0
    """Ceiling of the pause between attempts to reach the agent: it is on the same host, and it restarts."""


def render(settings: BootstrapSettings) -> bytes:
    """The bootstrap as JSON; one input gives the same bytes always."""
    return json.dumps(document(settings), indent=1, sort_keys=True).encode() + b"\n"


def document(settings: BootstrapSettings) -> dict[str, Any]:
    """The bootstrap as a tree, in the JSON form of envoy.config.bootstrap.v3.Bootstrap."""
    return {
        "node": {"id": settings.node, "cluster": settings.cluster, "metadata": dict(settings.metadata)},
        "admin": {"address": {"pipe": {"path": settings.admin_socket, "mode": settings.admin_mode}}},
        "dynamic_resources": _dynamic(settings),
        "static_resources": {"clusters": [_agent(settings)]},
        "overload_manager": _overload(settings),
        "stats_config": {
            "stats_matcher": {
                "inclusion_list": {
                    "patterns": [{"prefix": p} for p in _KEEP_PREFIXES] + [{"suffix": s} for s in _KEEP_SUFFIXES]
                }
            }
        },
        # No timer: figures are gathered when somebody asks for them.
        "stats_flush_on_admin": True,
        "layered_runtime": {
            "layers": [
                {
                    "name": "holdfast",
                    "static_layer": {
                        # A regex beyond this is refused, not compiled: it would be a slow path for every request.
                        "re2.max_program_size.error_level": 1024,
                        "re2.max_program_size.warn_level": 512,
                    },
                },
                {"name": "admin", "admin_layer": {}},
            ]
        },
    }


def _dynamic(settings: BootstrapSettings) -> dict[str, Any]:
    # No timeout for the first answer: an Envoy without configuration must not take over from one that has it (hot
    # restart), nor open for business empty.
    source = {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}
    back_off = {"base_interval": "0.050s", "max_interval": f"{settings.reconnect_max_seconds:.3f}s"}
    grpc = {"cluster_name": XDS_CLUSTER, "retry_policy": {"retry_back_off": back_off}}
    return {
        "ads_config": {
            "api_type": "DELTA_GRPC",
            "transport_api_version": "V3",
            "set_node_on_first_message_only": True,
            "grpc_services": [{"envoy_grpc": grpc}],
        },
        "cds_config": source,
        "lds_config": source,
    }


def _agent(settings: BootstrapSettings) -> dict[str, Any]:
    endpoint = {"endpoint": {"address": {"pipe": {"path": settings.xds_socket}}}}
    options = {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    return {
        "name": XDS_CLUSTER,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": XDS_CLUSTER, "endpoints": [{"lb_endpoints": [endpoint]}]},
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options},
    }


def _overload(settings: BootstrapSettings) -> dict[str, Any]:
    heap = "envoy.resource_monitors.fixed_heap"
    connections = "envoy.resource_monitors.global_downstream_max_connections"
    package = "type.googleapis.com/envoy.extensions.resource_monitors"

    def action(name: str, threshold: float) -> dict[str, Any]:
        return {
            "name": f"envoy.overload_actions.{name}",
            "triggers": [{"name": heap, "threshold": {"value": threshold}}],
        }

    return {
        "refresh_interval": "0.250s",
        "resource_monitors": [
            {
                "name": heap,
                "typed_config": {
                    "@type": f"{package}.fixed_heap.v3.FixedHeapConfig",
                    "max_heap_size_bytes": settings.max_heap_bytes,
                },
            },
            {
                "name": connections,
                "typed_config": {
                    "@type": f"{package}.downstream_connections.v3.DownstreamConnectionsConfig",
                    "max_active_downstream_connections": settings.max_downstream_connections,
                },
            },
        ],
        "actions": [
            action("shrink_heap", 0.85),
            action("disable_http_keepalive", 0.92),
            action("stop_accepting_requests", 0.95),
            action("stop_accepting_connections", 0.98),
        ],
    }
