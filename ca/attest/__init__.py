"""How a caller proves which node it is: evidence in, Claims out.

join_token   one time, expiring, bound to a node, its identities and one key
node_cert    the node's certificate: live in TLS, or expired with a signature of its key
node_records what a node may have, as the store says it now
"""
