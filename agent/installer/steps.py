"""Options and facts -> the things to make, in their order; and which of them are to go."""

import json

from agent.installer.model import (
    AGENT_USER,
    AGENT_YAML,
    COMMAND,
    CONFIG,
    CURRENT,
    DATA,
    ENVOY_USER,
    ENVOYS,
    LOGS,
    OPT,
    UNIT_FOLDER,
    Service,
    Thing,
)

HEAD = "# Written by Holdfast's installer. A change by hand stays; `holdfast-agent leave` removes the file.\n"
PROTOCOLS = ("tcp", "http", "http2", "grpc")


def things(options, offer, unit_texts, facts):
    """All of an installation. Making what is there already changes nothing."""
    found = [
        Thing("user", ENVOY_USER),
        Thing("user", AGENT_USER),
        Thing("folder", OPT),
        Thing("folder", ENVOYS),
        Thing("folder", CONFIG),
        Thing("folder", CONFIG + "/services.d"),
        Thing("folder", DATA, mode=0o700, owner=AGENT_USER),
        Thing("folder", LOGS, mode=0o750, owner=ENVOY_USER),
        Thing("tree", OPT + "/" + offer.version, stamp=offer.stamp),
        Thing("tree", ENVOYS + "/" + offer.envoy.version, stamp=offer.envoy.sha256),
        Thing("link", CURRENT, target=offer.version),
        Thing("link", ENVOYS + "/current", target=offer.envoy.version),
        Thing("link", COMMAND, target=CURRENT + "/bin/holdfast-agent"),
    ]
    if not options.upgrade:
        address = options.address or facts.address
        text = options.settings or agent_yaml(options, address, elsewhere=facts.elsewhere)
        found.append(Thing("file", AGENT_YAML, mode=0o644, text=text))
        found += [
            Thing("file", CONFIG + "/services.d/" + name, mode=0o644, text=text)
            for name, text in (*((s.name + ".yaml", service_yaml(s)) for s in options.services), *options.files)
        ]
    found += [Thing("unit", UNIT_FOLDER + "/" + name, mode=0o644, text=text) for name, text in unit_texts]
    return found


def agent_yaml(options, address, *, elsewhere=False):
    """JSON's strings are YAML's. Behind NAT Envoy listens at all of the host's addresses: `address` is none."""
    bind = options.bind or (("::" if ":" in address else "0.0.0.0") if elsewhere else "")
    lines = [
        "node: " + json.dumps(options.node),
        "address: " + json.dumps(address),
        *(["bind: " + json.dumps(bind)] if bind else []),
        *(["gateway: {}"] if options.gateway else []),
        "controlplanes: " + json.dumps(list(options.controlplanes)),
    ]
    return HEAD + "\n".join(lines) + "\n"


def service_yaml(service):
    lines = [
        "name: " + json.dumps(service.name),
        "namespace: " + json.dumps(service.namespace),
        "serviceAccount: " + json.dumps(service.account),
        "ports:",
        "  - port: " + str(service.port),
        "    protocol: " + service.protocol,
    ]
    return HEAD + "\n".join(lines) + "\n"


def parse_service(text, identities):
    """`[namespace/]name:port[:protocol]`. Namespace and account are those of the identity that fits.

    Raises:
        ValueError: it is something else.

    """
    head, *rest = text.split(":")
    namespace, slash, name = head.rpartition("/")
    if not name or not 1 <= len(rest) <= 2 or not rest[0].isdigit() or not 0 < int(rest[0]) < 65536:
        raise ValueError(repr(text) + " is not [namespace/]name:port[:protocol]")
    protocol = rest[1] if len(rest) == 2 else "tcp"
    if protocol not in PROTOCOLS:
        raise ValueError(repr(text) + ": the protocol is one of " + ", ".join(PROTOCOLS))
    pairs = [tuple(identity.split("/", 1)) for identity in identities if "/" in identity]
    pairs = [pair for pair in pairs if not slash or pair[0] == namespace]
    same = [pair for pair in pairs if pair[1] == name]
    chosen = (same or (pairs if len(pairs) == 1 else []))[:1]
    space, account = chosen[0] if chosen else (namespace or "default", name)
    return Service(name, space, account, int(rest[0]), protocol)


def stale(recorded, current, previous):
    """Trees of earlier versions that may go: all but what is in use and the one before it."""
    return [key for key in recorded if key.startswith("tree ") and key.split(" ", 1)[1] not in (*current, *previous)]


def removal(recorded, *, keep_config):
    """What was recorded, the last first."""
    kept = (CONFIG, CONFIG + "/services.d")
    found = []
    for key in reversed(list(recorded)):
        kind, name = key.split(" ", 1)
        if keep_config and (name in kept or name.startswith(CONFIG + "/")):
            continue
        found.append((kind, name))
    return found
