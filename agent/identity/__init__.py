"""Who this host is: keys made here, join, certificates of the local services, and when to renew them.

rotation   when (pure: dates and jitter in, time out)
keys       keys and certificate requests (made on the host, never sent anywhere), what a chain says of itself
leaf       the serial of a certificate, without a library for X.509 (pure)
join       a join token becomes a node identity
workload   certificates of local services in one batch; renewal of the node's, also by proof of an old key
exchange   runs the two above in a short process of their own, so that the agent itself carries neither X.509 nor an
           HTTP library: 15 MB less on every host, and nothing from the network is parsed where the keys of Envoy live
"""
