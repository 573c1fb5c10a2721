"""Random configurations, of everything that the simulator knows.

All random choices of Envoy are certain in them (weights and percentages of 0 or all), so that one request has one
outcome. Names and values come from small sets, so that conditions hold about as often as not.
"""

from dataclasses import dataclass
from typing import Any

from mesh import pb
from mesh.compile import http
from mesh.compile.parts import access_log, http_filter
from tests.integration.traffic.differential.pieces import (
    CLUSTERS,
    CORS,
    DOMAINS,
    FAULT,
    FAULT_RULE,
    LIMIT,
    MIRRORS,
    MISSING,
    RBAC,
    REGEXES,
    REWRITES,
    RULE,
    SEGMENTS,
    SHADOW,
    Pieces,
    verdict_of,
)


@dataclass(frozen=True)
class Config:
    """A connection manager and its routes."""

    manager: pb.Filter
    routes: pb.RouteConfiguration


class Maker(Pieces):
    def config(self, name: str) -> Config:
        return Config(self.manager(name), self.routes(name))

    # --- the manager ---

    def manager(self, name: str) -> pb.Filter:
        rng = self.rng
        spec = http.Manager(
            stat_prefix=name,
            route=name,
            log=access_log("/dev/null", {"status": "%RESPONSE_CODE%"}),
            filters=tuple(self.filters()),
            replies=tuple(self.some(2, self.mapper)),
            inbound=self.maybe(0.4),
            grpc=self.maybe(0.3),
        )
        found = http.manager(spec)
        hcm = pb.HttpConnectionManager.FromString(found.typed_config.value)
        hcm.strip_any_host_port = self.maybe(0.2)
        if self.maybe(0.3):
            hcm.merge_slashes = self.maybe(0.5)
            hcm.normalize_path.value = self.maybe(0.5)
            hcm.path_with_escaped_slashes_action = rng.choice(
                [pb.HttpConnectionManager.KEEP_UNCHANGED, pb.HttpConnectionManager.UNESCAPE_AND_FORWARD]
            )
        if self.maybe(0.2):
            hcm.common_http_protocol_options.headers_with_underscores_action = rng.choice(
                [pb.HttpProtocolOptions.REJECT_REQUEST, pb.HttpProtocolOptions.DROP_HEADER]
            )
        found.typed_config.CopyFrom(pb.any_of(hcm))
        return found

    def filters(self) -> list[pb.HttpFilter]:
        rules = self.matcher() if self.maybe(0.15) else verdict_of("base", pb.RbacRules.ALLOW)
        found = [
            http_filter(CORS, pb.Cors()),
            http_filter(SHADOW, pb.HttpRbac(shadow_matcher=rules)),
            http_filter(RBAC, pb.HttpRbac(matcher=rules)),
            http_filter(LIMIT, pb.LocalRateLimit(stat_prefix="base")),
            http_filter(FAULT, self.fault() if self.maybe(0.05) else pb.HttpFault()),
        ]
        for one in found:
            one.disabled = self.maybe(0.1)
        self.rng.shuffle(found)
        return found

    def mapper(self) -> pb.ResponseMapper:
        rng = self.rng
        found = pb.ResponseMapper()
        if self.maybe(0.5):
            op = rng.choice(["EQ", "GE", "LE"])
            value = {"default_value": rng.choice([403, 404, 503, 400]), "runtime_key": "none"}
            found.filter.CopyFrom(pb.AccessLogFilter(status_code_filter={"comparison": {"op": op, "value": value}}))
        else:
            flags = rng.choice([["NR"], ["FI"], ["UF"], ["NR", "FI"]])
            found.filter.CopyFrom(pb.AccessLogFilter(response_flag_filter={"flags": flags}))
        if self.maybe(0.3):
            found.status_code.value = rng.choice([418, 500])
        if self.maybe(0.3):
            found.body.inline_string = "mapped"
        if self.maybe(0.4):
            text = rng.choice([f"by {RULE} {FAULT_RULE}\n", "%RESPONSE_CODE%: %LOCAL_REPLY_BODY%", "plain"])
            found.body_format_override.text_format_source.inline_string = text
        for _ in range(rng.choice([0, 0, 1, 2])):
            value = rng.choice(["mapped", RULE, f"{RULE},{FAULT_RULE}", FAULT_RULE, "%RESPONSE_CODE%"])
            option = found.headers_to_add.add(header=pb.HeaderValue(key=rng.choice(["x-a", "x-mapped"]), value=value))
            option.append_action = rng.randrange(4)
        return found

    # --- routes ---

    def routes(self, name: str) -> pb.RouteConfiguration:
        rng = self.rng
        found = pb.RouteConfiguration(
            name=name,
            most_specific_header_mutations_wins=self.maybe(0.4),
            ignore_port_in_host_matching=self.maybe(0.3),
            validate_clusters=pb.BoolValue(value=False),  # as it is with RDS
        )
        self.edits(found, probability=0.3)
        self.per_filter(found, probability=0.1)
        self.mirrors(found, probability=0.1)
        hosts = rng.randint(0, 4)
        domains = rng.sample(DOMAINS, len(DOMAINS))
        for index in range(hosts):
            host = found.virtual_hosts.add(name=f"host-{index}")
            host.domains.extend(_once(domains[index * 3 : index * 3 + rng.randint(1, 3)], found))
            if not host.domains:
                found.virtual_hosts.pop()
        found.virtual_hosts.add(name="all", domains=["*"])
        if self.maybe(0.1) and len(found.virtual_hosts) > 1:
            found.virtual_hosts.pop()
        for host in found.virtual_hosts:
            host.routes.extend(self.route() for _ in range(rng.randint(1, 6)))
            if self.maybe(0.6):
                host.routes[-1].match.CopyFrom(pb.RouteMatch(prefix="/"))
            host.include_request_attempt_count = self.maybe(0.1)
            self.edits(host, probability=0.3)
            self.per_filter(host)
            self.mirrors(host, probability=0.1)
        return found

    def route(self) -> pb.Route:
        found = pb.Route(match=self.match(), name=self.rng.choice(["", "named"]))
        choice = self.rng.random()
        if choice < 0.65:
            found.route.CopyFrom(self.action())
        elif choice < 0.85:
            found.redirect.CopyFrom(self.redirect())
        else:
            found.direct_response.status = self.rng.choice([200, 204, 403, 503])
            if self.maybe(0.7):
                found.direct_response.body.inline_string = self.rng.choice(["hello", "é", "two\nlines"])
        self.edits(found, probability=0.3)
        self.per_filter(found)
        return found

    def match(self) -> pb.RouteMatch:
        rng, found = self.rng, pb.RouteMatch()
        kind = rng.choice(["prefix", "prefix", "path", "safe_regex", "path_separated_prefix"])
        if kind == "safe_regex":
            found.safe_regex.regex = rng.choice(REGEXES)
        elif kind == "path_separated_prefix":
            found.path_separated_prefix = self.path(least=1).rstrip("/") or "/a"
        else:
            setattr(found, kind, self.path() if kind == "path" or self.maybe(0.6) else "/")
        if kind != "safe_regex" and self.maybe(0.3):
            found.case_sensitive.value = self.maybe(0.5)
        if self.maybe(0.4):
            found.headers.extend(self.some(2, self.header))
        if self.maybe(0.25):
            found.query_parameters.extend(self.some(2, self.parameter))
        if self.maybe(0.05):
            found.grpc.SetInParent()
        if self.maybe(0.1):
            found.runtime_fraction.CopyFrom(self.fraction())
        return found

    def path(self, least: int = 0) -> str:
        return "/" + "/".join(self.rng.choice(SEGMENTS) for _ in range(self.rng.randint(least, 3)))

    def action(self) -> pb.RouteAction:
        rng, found = self.rng, pb.RouteAction()
        if self.maybe(0.6):
            found.cluster = rng.choice([*CLUSTERS, *CLUSTERS, *CLUSTERS, MISSING])
        else:
            self.weights(found.weighted_clusters)
        if self.maybe(0.1):
            found.cluster_not_found_response_code = rng.choice(
                [pb.RouteAction.SERVICE_UNAVAILABLE, pb.RouteAction.NOT_FOUND]
            )
        choice = rng.random()
        if choice < 0.25:
            found.prefix_rewrite = rng.choice(["/", "/new", "/new/", "/?x=1"])
        elif choice < 0.45:
            self.regex_rewrite(found)
        if self.maybe(0.2):
            found.host_rewrite_literal = rng.choice(["other.shop", "Other:81"])
        self.mirrors(found, probability=0.2)
        if self.maybe(0.1):
            found.hash_policy.add(header={"header_name": "x-a"})
            found.hash_policy.add(cookie={"name": "a", "ttl": pb.duration(9)})
            found.hash_policy.add(connection_properties={"source_ip": True})
        return found

    def regex_rewrite(self, found: Any) -> None:
        pattern, substitution = self.rng.choice(REWRITES)
        found.regex_rewrite.pattern.regex = pattern
        found.regex_rewrite.substitution = substitution

    def weights(self, weighted: Any) -> None:
        chosen = self.rng.randrange(3)
        for index, name in enumerate(self.rng.sample(CLUSTERS, 3)):
            weight = self.rng.choice([1, 7, 100]) if index == chosen else 0
            cluster = weighted.clusters.add(name=name, weight=pb.uint32(weight))
            self.edits(cluster, probability=0.3)
            self.per_filter(cluster, probability=0.1)
            if self.maybe(0.2):
                cluster.host_rewrite_literal = "weighted.shop"

    def mirrors(self, level: Any, *, probability: float) -> None:
        if not self.maybe(probability):
            return
        for cluster in self.rng.sample([*MIRRORS, MISSING], self.rng.randint(1, 2)):
            policy = level.request_mirror_policies.add(cluster=cluster)
            if self.maybe(0.5):
                policy.runtime_fraction.CopyFrom(self.fraction())

    def redirect(self) -> pb.RedirectAction:
        rng, found = self.rng, pb.RedirectAction()
        choice = rng.random()
        if choice < 0.3:
            found.https_redirect = True
        elif choice < 0.6:
            found.scheme_redirect = rng.choice(["http", "https", "ftp"])
        if self.maybe(0.4):
            found.host_redirect = rng.choice(["new.shop", "new.shop:99"])
        if self.maybe(0.3):
            found.port_redirect = rng.choice([80, 443, 8443])
        choice = rng.random()
        if choice < 0.25:
            found.path_redirect = rng.choice(["/new", "/new?x=1", "/?"])
        elif choice < 0.5:
            found.prefix_rewrite = rng.choice(["/", "/new"])
        elif choice < 0.7:
            self.regex_rewrite(found)
        found.strip_query = self.maybe(0.3)
        codes = pb.RedirectAction.RedirectResponseCode
        found.response_code = rng.choice(codes.values())
        return found

    def edits(self, level: Any, *, probability: float) -> None:
        for direction in ("request", "response"):
            if not self.maybe(probability):
                continue
            names = ["x-a", "x-b", "X-Added", "accept" if direction == "request" else "vary", "x-twice", "x-from"]
            for _ in range(self.rng.randint(0, 3)):
                option = getattr(level, f"{direction}_headers_to_add").add()
                option.header.key = self.rng.choice(names)
                option.header.value = self.rng.choice(
                    ["set", "100%%", "", "é", RULE, FAULT_RULE, f"{FAULT_RULE}%%{RULE}"]
                )
                option.append_action = self.rng.randrange(4)
                option.keep_empty_value = self.maybe(0.5)
            removed = self.rng.sample(names, self.rng.randint(0, 2))
            getattr(level, f"{direction}_headers_to_remove").extend(removed)


def _once(domains: list[str], found: pb.RouteConfiguration) -> list[str]:
    """Envoy takes each only once, whatever its case."""
    known = {domain.lower() for host in found.virtual_hosts for domain in host.domains}
    return [domain for domain in domains if domain.lower() not in known]
