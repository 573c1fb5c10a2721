"""The REST API, over TLS.

    app        routes -> handlers, limits                 guard     who calls, may they, audit, timeouts
    context    what handlers work with                    answers   JSON in and out, errors
    objects    get, list, put, delete, apply              watching  changes as NDJSON
    agents     join, sign, renew, register, uplink        operators tokens, status, proxies, rotation, backup
    health     healthz, readyz, metrics                   tls       the server's context, renewed while it serves
    checked    the apply that is whole, or undone         plans     what a change would do
    explaining what becomes of one call                   revisions how far a revision has come
    history    who changed what                           nodes     drain, undrain, dump
    peerings   other clusters                             dist      what bare hosts fetch; `downloads`, how many at once
    idle       connections that never ask anything        serverlog what the HTTP server itself has to say

Every route has a row in `controlplane.auth.MATRIX`; one without is refused to everybody.
"""
