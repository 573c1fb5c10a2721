"""The scenario with several clusters: which steps there are, in order."""

from controlplane.demo.check.clusters import alone, called, failover, partly, peered
from controlplane.demo.check.clusters.context import Scene
from controlplane.demo.check.runner import Planned

STEPS: tuple[Planned[Scene], ...] = (
    Planned(1, peered.TITLE, peered.run, 120),
    Planned(2, called.TITLE, called.run, 60),
    Planned(3, failover.TITLE, failover.run, 180),
    Planned(4, partly.TITLE, partly.run, 180),
    Planned(5, alone.TITLE, alone.run, 180),
)
