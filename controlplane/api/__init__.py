"""The REST API, over TLS.

    app        routes -> handlers, limits                 guard     who calls, may they, audit, timeouts
    context    what handlers work with                    answers   JSON in and out, errors
    objects    get, list, put, delete, apply              watching  changes as NDJSON
    agents     join, sign, renew, register, uplink        operators tokens, status, proxies, rotation, backup
    health     healthz, readyz, metrics                   tls       the server's context, renewed while it serves
    idle       connections that never ask anything

Every route has a row in `controlplane.auth.MATRIX`; one without is refused to everybody.
"""
