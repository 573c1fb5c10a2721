"""Who you are: from evidence to a certificate.

    attest -> policy -> template -> signer -> verify -> audit      (ca.api runs them in this order)

    wire       messages between agent and CA (pure)      client    what an agent calls
    policy     claims -> Grant or Denied (pure)          template  Grant + CSR key + now -> certificate (pure)
    verify     proof of possession; is what was signed what was granted? (pure)
    rotation   when to renew or replace what (pure)
    attest     join_token, node certificate              signer    vault (the one door to Vault/OpenBao), builtin
    bundle     publish the trust bundle                  authority this replica's intermediate
    joins      when a node last joined (pure)
    limits     how often each caller is served (pure)    seal      what is secret in the store and on disk
    keys       keys and proofs, made where they live     disk      small private files, written whole
    api        the composition of the above

A certificate is built from policy. Nothing of a CSR is used but its public key, after its signature was checked.
"""
