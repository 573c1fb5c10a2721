"""Real hosts for tests: Debian under systemd-nspawn, a root file system, a network and a systemd of its own each.

`python -m tests.vm` starts some by hand; tests use `fleet.Fleet`. Needs root, and says so.
"""
