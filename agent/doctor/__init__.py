"""Diagnostics of one host: `holdfast-agent doctor` and `holdfast-agent debug dump`.

    facts      what can be known of a host, as values                   (pure)
    checks     facts -> findings: ok, warning or fault, and what to do   (pure)
    systems    words of systemd, nft and the kernel -> values            (pure)
    secrets    text or tree -> the same without what is secret           (pure)
    gather     the host -> facts; nothing that is missing stops it
    parts      the host -> the parts of a dump, each on its own
    archive    parts -> one tar.gz, bounded, 0600
    commands   the command line

Nothing here changes anything on the host, and nothing needs the agent, Envoy or the control plane to be alive.
"""
