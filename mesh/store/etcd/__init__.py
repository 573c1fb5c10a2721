"""The one door to etcd: our client on etcd's own gRPC API, with the stubs of `aetcd.rpc`.

    faults      gRPC's errors -> ours, and what may be tried again: tables
    members     connections to several members, and which of them is asked
    client      EtcdStore: the store's contract
    watching    one watch stream: several ranges, on a connection of its own
    admin       users, roles, authentication, status: for set-up, never for running nodes

No exception of gRPC leaves this package.
"""

from mesh.store.etcd.admin import EtcdAdmin, MemberStatus, Role
from mesh.store.etcd.client import EtcdStore
from mesh.store.etcd.members import Tls

__all__ = ["EtcdAdmin", "EtcdStore", "MemberStatus", "Role", "Tls"]
