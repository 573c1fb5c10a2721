"""The published mesh tests: what is asked, by whom, and what must come back. Data, transcribed from tests/mesh/*.go.

Two things are asked for more strictly than by the published checker, which compares neither where a redirect leads nor
the path that a backend saw. Each Location is whole, with what the specification has where a filter leaves a part out.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

MESH = "gateway-conformance-mesh"
CONSUMER = "gateway-conformance-mesh-consumer"


@dataclass(frozen=True, slots=True)
class Case:
    """One request of a pod, and its answer. Hosts are `<service>[.<namespace>][:<port>]`, port 80 if none is said."""

    path: str = ""
    host: str = "echo"
    headers: Mapping[str, str] = field(default_factory=dict)
    namespace: str = MESH
    """Of the calling pod, which is one of Deployment echo-v1."""
    protocol: str = "http"
    status: int = 200
    backend: str = ""
    """Deployment whose pod must have answered; empty: any."""
    seen_path: str = ""
    seen: Mapping[str, str] = field(default_factory=dict)
    """Headers as the backend saw them; several of a name joined with a comma."""
    unseen: tuple[str, ...] = ()
    answered: Mapping[str, str] = field(default_factory=dict)
    """Headers of the answer."""
    unanswered: tuple[str, ...] = ()
    location: str = ""
    shares: Mapping[str, float] = field(default_factory=dict)
    """Deployment -> its share of 500 requests, give or take 5 % of them."""
    cannot: str = ""
    """Why it is not asked here."""

    def __str__(self) -> str:
        said = "".join(f" {name}: {value}" for name, value in self.headers.items())
        return f"{self.protocol}://{self.host}{self.path}{said}"


@dataclass(frozen=True, slots=True)
class Published:
    name: str
    """ShortName of the published test."""
    manifest: str
    """File in tests/mesh; empty: nothing is applied."""
    cases: tuple[Case, ...]


def _redirect(path: str, location: str, status: int = 302) -> Case:
    return Case(path, status=status, location=location)


_EDITED = {"X-Header-Remove": "remove-val", "X-Header-Add-Append": "append-val-1", "X-Header-Set": "set-val"}
_EDITED_SEEN = {
    "X-Header-Add": "header-val-1",
    "X-Header-Add-Append": "append-val-1,header-val-2",
    "X-Header-Set": "set-overwrites-values",
}

_MODIFIED = (
    Case(
        "/set",
        headers={"Some-Other-Header": "val"},
        backend="echo-v1",
        seen_path="/set",
        seen={"Some-Other-Header": "val", "X-Header-Set": "set-overwrites-values"},
    ),
    Case(
        "/set",
        headers={"Some-Other-Header": "val", "X-Header-Set": "some-other-value"},
        backend="echo-v1",
        seen_path="/set",
        seen={"Some-Other-Header": "val", "X-Header-Set": "set-overwrites-values"},
    ),
    Case(
        "/add",
        headers={"Some-Other-Header": "val"},
        backend="echo-v1",
        seen_path="/add",
        seen={"Some-Other-Header": "val", "X-Header-Add": "add-appends-values"},
    ),
    Case(
        "/add",
        headers={"Some-Other-Header": "val", "X-Header-Add": "some-other-value"},
        backend="echo-v1",
        seen_path="/add",
        seen={"Some-Other-Header": "val", "X-Header-Add": "some-other-value,add-appends-values"},
    ),
    Case(
        "/remove",
        headers={"X-Header-Remove": "val"},
        backend="echo-v1",
        seen_path="/remove",
        unseen=("X-Header-Remove",),
    ),
    Case(
        "/multiple",
        headers={
            "X-Header-Set-2": "set-val-2",
            "X-Header-Add-2": "add-val-2",
            "X-Header-Remove-2": "remove-val-2",
            "Another-Header": "another-header-val",
        },
        backend="echo-v1",
        seen_path="/multiple",
        seen={
            "X-Header-Set-1": "header-set-1",
            "X-Header-Set-2": "header-set-2",
            "X-Header-Add-1": "header-add-1",
            "X-Header-Add-2": "add-val-2,header-add-2",
            "X-Header-Add-3": "header-add-3",
            "Another-Header": "another-header-val",
        },
        unseen=("X-Header-Remove-1", "X-Header-Remove-2"),
    ),
    Case(
        "/case-insensitivity",
        headers={
            "x-header-set": "original-val-set",
            "x-header-add": "original-val-add",
            "x-header-remove": "original-val-remove",
            "Another-Header": "another-header-val",
        },
        backend="echo-v1",
        seen_path="/case-insensitivity",
        seen={
            "X-Header-Set": "header-set",
            "X-Header-Add": "original-val-add,header-add",
            "Another-Header": "another-header-val",
        },
        unseen=("x-header-remove", "X-Header-Remove"),
    ),
)

_ADDED, _NOT_ADDED = {"X-Header-Set": "set"}, ("X-Header-Set",)
_SHARES = {"echo-v1": 0.7, "echo-v2": 0.3}

TESTS = (
    Published("MeshBasic", "", (Case(),)),
    Published(
        "MeshTrafficSplit",
        "mesh-split.yaml",
        (Case("/v1", backend="echo-v1"), Case("/v2", backend="echo-v2")),
    ),
    Published(
        "MeshPorts",
        "mesh-ports.yaml",
        (
            Case(host="echo-v1", answered={"X-Header-Set": "v1"}, backend="echo-v1"),
            Case(host="echo-v1:8080", unanswered=_NOT_ADDED, backend="echo-v1"),
            Case(host="echo-v2", answered={"X-Header-Set": "v2"}, backend="echo-v2"),
            Case(host="echo-v2:8080", answered={"X-Header-Set": "v2"}, backend="echo-v2"),
        ),
    ),
    Published(
        "MeshFrontend",
        "mesh-frontend.yaml",
        (
            Case(host="echo-v2", answered=_ADDED, backend="echo-v2"),
            Case(
                host="<pod>:8080",
                unanswered=_NOT_ADDED,
                backend="echo-v2",
                cannot="a pod's own address is called: only Services are upstreams, so no proxy is in the way",
            ),
        ),
    ),
    Published(
        "MeshFrontendHostname",
        "mesh-frontend.yaml",
        (
            Case(host="echo-v2", headers={"Host": "echo-v1"}, answered=_ADDED, backend="echo-v2"),
            Case(host="echo-v1", headers={"Host": "echo-v2"}, unanswered=_NOT_ADDED, backend="echo-v1"),
        ),
    ),
    Published(
        "MeshConsumerRoute",
        "mesh-consumer-route.yaml",
        (
            Case("/", host=f"echo-v1.{MESH}", namespace=CONSUMER, answered=_ADDED, backend="echo-v1"),
            Case("/", host=f"echo-v1.{MESH}", unanswered=_NOT_ADDED, backend="echo-v1"),
        ),
    ),
    Published(
        "MeshHTTPRouteSimpleSameNamespace", "httproute-simple-same-namespace.yaml", (Case("/", backend="echo-v1"),)
    ),
    Published(
        "MeshHTTPRouteMatching",
        "httproute-matching.yaml",
        (
            Case("/", backend="echo-v1"),
            Case("/example", backend="echo-v1"),
            Case("/", headers={"Version": "one"}, backend="echo-v1"),
            Case("/v2", backend="echo-v2"),
            Case("/v2/example", backend="echo-v2"),
            Case("/", headers={"Version": "two"}, backend="echo-v2"),
            Case("/v2/", backend="echo-v2"),
            Case("/v2example", backend="echo-v1"),  # /v2 is not a whole element of it
            Case("/foo/v2/example", backend="echo-v1"),
        ),
    ),
    Published(
        "MeshHTTPRouteNamedRule",
        "httproute-named-rule.yaml",
        # The published test also has a path that the backend saw, which for the second request cannot be.
        (Case("/named", backend="echo-v1"), Case("/unnamed", backend="echo-v2")),
    ),
    Published(
        "MeshHTTPRouteQueryParamMatching",
        "httproute-query-param-matching.yaml",
        (
            Case("/?animal=whale", backend="echo-v1"),
            Case("/?animal=dolphin", backend="echo-v2"),
            Case("/?animal=whale&otherparam=irrelevant", backend="echo-v1"),
            Case("/?animal=dolphin&color=yellow", backend="echo-v2"),
            Case("/?color=blue", status=404),
            Case("/?animal=dog", status=404),
            Case("/?animal=whaledolphin", status=404),
            Case("/", status=404),
            Case("/path1?animal=whale", backend="echo-v1"),
            Case("/?animal=whale", headers={"version": "one"}, backend="echo-v2"),
            Case("/path3?animal=shark", backend="echo-v1"),
            Case("/path4?animal=kraken", headers={"version": "three"}, backend="echo-v1"),
            Case("/?animal=shark", status=404),
            Case("/path4?animal=kraken", status=404),
            Case("/path5?animal=hydra", backend="echo-v1"),
        ),
    ),
    Published("MeshHTTPRouteRequestHeaderModifier", "httproute-request-header-modifier.yaml", _MODIFIED),
    Published("MeshHTTPRouteBackendRequestHeaderModifier", "httproute-request-header-modifier-backend.yaml", _MODIFIED),
    Published(
        "MeshHTTPRouteRewritePath",
        "httproute-rewrite-path.yaml",
        (
            Case("/prefix/one/two", seen_path="/one/two", backend="echo-v1"),
            Case("/strip-prefix/three", seen_path="/three", backend="echo-v1"),
            Case("/strip-prefix", seen_path="/", backend="echo-v1"),
            Case("/full/one/two", seen_path="/one", backend="echo-v1"),
            Case(
                "/full/rewrite-path-and-modify-headers/test",
                headers=_EDITED,
                backend="echo-v1",
                seen_path="/test",
                seen=_EDITED_SEEN,
                unseen=("X-Header-Remove",),
            ),
            Case(
                "/prefix/rewrite-path-and-modify-headers/one",
                headers=_EDITED,
                backend="echo-v1",
                seen_path="/prefix/one",
                seen=_EDITED_SEEN,
                unseen=("X-Header-Remove",),
            ),
        ),
    ),
    Published(
        "MeshHTTPRoute303Redirect",
        "httproute-303-redirect.yaml",
        (_redirect("/redirect", "http://echo/redirect", 303),),
    ),
    Published(
        "MeshHTTPRoute307Redirect",
        "httproute-307-redirect.yaml",
        (_redirect("/temporary", "http://echo/temporary", 307),),
    ),
    Published(
        "MeshHTTPRoute308Redirect",
        "httproute-308-redirect.yaml",
        (_redirect("/permanent", "http://echo/permanent", 308),),
    ),
    Published(
        "MeshHTTPRouteRedirectHostAndStatus",
        "httproute-redirect-host-and-status.yaml",
        (
            _redirect("/hostname-redirect", "http://example.org/hostname-redirect"),
            _redirect("/host-and-status", "http://example.org/host-and-status", 301),
        ),
    ),
    Published(
        "MeshHTTPRouteRedirectPath",
        "httproute-redirect-path.yaml",
        (
            _redirect("/original-prefix/lemon", "http://echo/replacement-prefix/lemon"),
            _redirect("/full/path/original", "http://echo/full-path-replacement"),
            _redirect("/path-and-host", "http://example.org/replacement-prefix"),
            _redirect("/path-and-status", "http://echo/replacement-prefix", 301),
            _redirect("/full-path-and-host", "http://example.org/replacement-full"),
            _redirect("/full-path-and-status", "http://echo/replacement-full", 301),
        ),
    ),
    Published(
        "MeshHTTPRouteRedirectPort",
        "httproute-redirect-port.yaml",
        (
            _redirect("/port", "http://echo:8083/port"),
            _redirect("/port-and-host", "http://example.org:8083/port-and-host"),
            _redirect("/port-and-status", "http://echo:8083/port-and-status", 301),
            _redirect("/port-and-host-and-status", "http://example.org:8083/port-and-host-and-status"),
        ),
    ),
    Published(
        "MeshHTTPRouteSchemeRedirect",
        "httproute-redirect-scheme.yaml",
        (
            _redirect("/scheme", "https://echo/scheme"),
            _redirect("/scheme-and-host", "https://example.org/scheme-and-host"),
            _redirect("/scheme-and-status", "https://echo/scheme-and-status", 301),
            _redirect("/scheme-and-host-and-status", "https://example.org/scheme-and-host-and-status"),
        ),
    ),
    Published("MeshHTTPRouteWeight", "httproute-weight.yaml", (Case("/", shares=_SHARES),)),
    Published(
        "MeshGRPCRouteWeight", "grpcroute-weight.yaml", (Case(host="echo:7070", protocol="grpc", shares=_SHARES),)
    ),
)
