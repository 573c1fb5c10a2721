"""Findings become a step's result."""

from controlplane.demo.check.result import Findings


def test_a_step_passes_unless_something_failed():
    findings = Findings()
    findings.figure("requests", 10)
    assert findings.expect(True, "never said")
    assert findings.step(1, "x", 1.234).ok
    assert not findings.expect(False, "3 requests failed")
    step = findings.step(1, "x", 1.234)
    assert not step.ok
    assert step.failures == ("3 requests failed",)
    assert (step.figures, step.seconds) == ({"requests": 10}, 1.2)


def test_figures_of_a_part_carry_its_name():
    findings = Findings()
    with findings.part("without control plane"):
        findings.figure("failed", 0)
    assert findings.figures == {"without control plane: failed": 0}
