"""The operators' edge, and the composition root of a control-plane node.

A node:
    main       the command line                       settings   one frozen tree, read once
    daemon     settings -> adapters -> one TaskGroup  facts      what it must know of its mesh before it can serve
    issuing    a replica as a CA                      audit      append-only log on this node
    metrics    names of figures
What is asked of it:
    api        REST over HTTPS                        auth       who is calling, what may they do
    admission  decode, validate, one transaction      applier    its thin hand; `unmet`, what an apply should say
               (a pure plan)
    checked    the apply that is whole, or undone     asking     one question to all agents
    progress   how far a revision has come; `revisions` waits for it
    history    what each write leaves behind          shelf      the distribution folder, as it is handed out
What it knows:
    view       all of the mesh, in memory             mirror     keeps it current; `touched`, what a batch changed
    uplink     held connections of agents             proxies    what they report, merged over the replicas
    registry   agents' registrations -> endpoints
The leader's work:
    election   fenced leadership                      liveness   which hosts are lost (pure)
    reconcile  liveness, selectors (plan_* are pure)  writer     runs plans; `commit`, what a write declares of itself
Other clusters:
    peering    a token, and its acceptance            peers      a link to each; `peered`, what is known of them
    importing  one peer, as the leader sees it        taking     what is taken is written
    exporting  what peers are served
Beside the node:
    setup      init                                   backup     backup and restore
    etcd_pki   etcd's own certificates                cli        the `holdfast` command
    demo       a whole mesh on one machine            distribution, manifest   the folder from which hosts install
"""
