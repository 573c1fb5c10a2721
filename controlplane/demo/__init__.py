"""A whole mesh on one machine, from real servers: `holdfast demo`.

topology    who is where: hosts, addresses, ports, files, objects (pure)
binaries    find Envoy, OpenBao and etcd (built once, if need be)
process     one started process: log file, readiness, stop
etcd_cluster, bao    the servers the mesh stands on
apps        the demo's own services
host        one host: its agent, its Envoy, its application
plane       the control-plane nodes
mesh        all of the above, started in order and stopped without a rest
check       the scenario of `holdfast demo --check`
"""
