"""What every part of Holdfast shares: the words of the mesh and the pure functions over them.

    model      resource kinds as frozen Structs, the registry of kinds, the World (pure)
    spiffe     SPIFFE ids (pure)              keys      etcd key layout (pure)
    codec      bytes <-> Struct (pure)        validate  all violations of an object (pure)
    store      the mesh's state: protocol, memory, etcd, strict, follow
    compile    project(world, node) -> NodeView; compile(view) -> Snapshot (pure)
    pb         the one door to Envoy's generated protos
    aio, obs   asyncio tools; logging and metrics
    durations  times on a command line        lean    what a process need not load
    oswords    why a connection failed

Nothing here imports ca, multicluster, controlplane or agent.
"""
