"""Gateway API as published, against what Holdfast makes of it.

published   the pinned Go modules: Gateway API's schema, and its conformance tests (fetched, never kept here)
schema      fields of a kind, from a CRD or from our Structs (pure)
listed      the compact list of Gateway API's fields, gateway_api.txt, and the same from the module
evidence    specimens/*.yaml run through the decoder and the checks: which field is taken, which refused, in what words
table       a row for each field: the test that shows it honoured (honoured.yaml), or the refusal; into docs/traffic.md

expectations    the requests of the published mesh tests, and what must come back, as data
echo            the published echo application, as a process
hosts           a host for each published Deployment: the echo process, an agent, a real Envoy
mesh            a whole mesh with such hosts, and the published base manifests applied to it
judge           does an answer meet an expectation? (pure)
shapes          documents and requests for the tests of fields that are not published

python -m tests.conformance            writes the tables anew
python -m tests.conformance --schema   also the list of fields, from the pinned module
"""
