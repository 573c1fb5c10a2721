"""Speed, memory and scale, measured with real processes. `make bench` runs all of it; see bench/__main__.py.

    compile_cost   one endpoint change through an agent's pure path, with 10 to 10,000 endpoints known
    issuing        SVIDs a second through the REST API, with the `builtin` and the `vault` signer
    propagation    put -> applied, and API apply -> first request answered by the new endpoint
    peers          one control-plane node with twenty peers of 500 services each
    crowd          one with a hundred peers, ten of them slow in every way that there is
    clusters       two whole clusters: a change of one in force in the other, and failover between them
    memory         an agent's resident memory and processor time, idle and with 1,000 services

Nothing here asserts a time. Figures are medians with spread or ratios, of the machine they were measured on.
"""
