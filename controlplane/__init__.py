"""The operators' edge, and the composition root of a control-plane node.

settings   one frozen tree, read once            auth       who is calling, what may they do
api        REST over HTTPS                       admission  decode, validate, one transaction (pure plan, thin write)
registry   agents' registrations -> endpoints    reconcile  leader only: liveness, selectors (plan_* are pure)
election   fenced leadership                     uplink     held connections of agents, proxies' status
audit      append-only log on this node          setup      init, backup, restore
history    what each write leaves behind         progress   how far a revision has come; `revisions` waits for it
asking     one question to all agents            checked    the apply that comes into force whole, or is undone
cli        the `holdfast` command                demo       a whole mesh on one machine
daemon     settings -> adapters -> one TaskGroup
"""
