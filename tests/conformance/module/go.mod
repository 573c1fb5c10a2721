module holdfast.dev/tests/conformance

go 1.26.0
