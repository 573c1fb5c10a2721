"""Who this host is: keys made here, join, certificates of the local services, and when to renew them.

rotation   when (pure: dates and jitter in, time out)
leaf       the serial of a certificate, without a library for X.509 (pure)
orders     what is asked of the CA and what came of it (pure data)
exchange   one call: keys made, requests signed, answers checked
process    the same in a short process of its own, so that the agent itself carries neither X.509 nor an HTTP library
           (15 MB less on every host), and nothing from the network is parsed where the keys of Envoy live
join       a join token becomes a node identity
keeper     what is held, on disk and in memory; renews, backs off, never stops serving
"""
