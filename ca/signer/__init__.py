"""What holds a root and signs intermediates with it.

    protocol   the contract, and the two errors that leave a signer
    memory     in memory, for tests; signs for real
    builtin    a root sealed in the store: no Vault needed
    vault      the one door to Vault and OpenBao

One contract suite (tests/contract/signer) runs on all of them.
"""
