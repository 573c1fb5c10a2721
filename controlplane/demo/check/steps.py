"""The scenario: which steps there are, in order."""

from controlplane.demo.check import step1, step2, step3, step4, step5, step6, step7
from controlplane.demo.check.runner import Planned

STEPS = (
    Planned(1, step1.TITLE, step1.run, 30),
    Planned(2, step2.TITLE, step2.run, 30),
    Planned(3, step3.TITLE, step3.run, 60),
    Planned(4, step4.TITLE, step4.run, 180),
    Planned(5, step5.TITLE, step5.run, 180),
    Planned(6, step6.TITLE, step6.run, 150),
    Planned(7, step7.TITLE, step7.run, 120),
)
