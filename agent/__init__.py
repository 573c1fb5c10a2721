"""One per host: watch -> World -> project -> compile -> Snapshot -> ADS -> Envoy.

Beginning:
    main, cli    the command line; `servicing`, a part; `asking`, what commands share
    settings     agent.yaml
    start        settings -> daemon                             daemon       composition root; `assembly`, what it makes
    notify       words for systemd                              leaving      `holdfast-agent leave`
Deciding:
    machine      when to act (pure): `events` in, instructions out
    runtime      executes instructions, feeds results back      pipeline     World + host -> Snapshot
    losses       which deletions are obeyed, which held back    quarantine   what Envoy refused; `search`, its shell
Knowing:
    watch        follow the mesh, publish the latest World      gather       what was received -> World (pure)
    state        last good state on disk; `saver` writes it     kept         what stands in for refused objects
    identity     keys, join, renewal                            peers        where the mesh is, whom we believe
    applied      what came into force in Envoy
The host's services:
    definitions  services.d                                     host         all of it -> NodeLocal
    health       thresholds; `checks` ask, `asuser` as a user   register     instances -> control plane
    drained      what is out of service                         keeping      out of service and back, as it is ordered
    departing    have callers left?                             unithook     drop-ins of services' own units
Names and capture:
    virtual      addresses and ports (pure); `places`, on disk  capture      what the helper is asked for (pure)
    redirect     when it is told (pure); `redirector` tells it  hostd        the helper: /etc/hosts, packet rules
    lifelines    where control planes are that have a name      resolver     asks for it
Asked, and telling:
    uplink       the one door to the control plane              telling      facts and answers for whoever asks
    status       what is observed, applied, refused             admin        the agent's own socket
    planning     what a change that is not written would do     explaining   what becomes of one call
    metrics      names of figures; `scrape`, their page         dumping      `doctor`, run for the control plane
    doctor       diagnostics of the host
The host and its Envoy:
    envoy        bootstrap, launcher, admin                     xds          delta ADS and SDS on a unix socket
    supervisor   sees to it that Envoy runs                     outside      what is needed of the world outside
    addresses    which ones the host has                        limits       are files and memory enough (pure)
    minding      looks whether they are                         procfs       what the kernel lets a process have
    http, tls    to a control-plane node                        memfile      keys as files that are in no file system
    installer    what `holdfast dist build` makes install.py of
"""
