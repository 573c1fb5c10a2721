"""Envoy's life on this host.

    bootstrap   what Envoy starts with (pure)
    launcher    Envoy's parent in spirit: a small process, standard library only, that outlives the agent
    host        the launcher's hands: processes, files, signals
    succession  what the launcher decides (pure)       record    what it writes down for the agent and its successor
    admin       the one door to Envoy's admin socket   process   start or adopt the launcher, ask Envoy
    trial       would Envoy take this snapshot?

The launcher imports nothing but the standard library, `host`, `succession` and `record`: it is always in memory.
"""
