"""What `holdfast demo --check` does: one module a step, each with figures that were measured.

result      what a step found (pure)        show     as a table, as JSON
load        a steady load with exact accounts        probe    TLS handshakes, good and bad
forge       certificates that must be refused        runner   the steps in order, each bounded in time
"""
