"""The mesh's state, as a small port.

    protocol   the contract, in prose; what every other module depends on
    errors     the only exceptions that leave a store
    memory     the contract in memory, with real semantics
    etcd       the one door to etcd
    strict     a wrapper that checks that callers keep the contract
    follow     list, then watch, resume, and list again: the only way to watch

One contract suite (tests/contract/store) runs on memory and on a real three-member etcd.
"""
