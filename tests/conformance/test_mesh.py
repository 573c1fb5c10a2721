"""Gateway API's own tests for meshes, as published, against real hosts.

Manifests are applied word for word and deleted again; the requests are those of tests/mesh/*.go (expectations.py).
"""

import time
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial

import pytest

from tests.conformance import judge
from tests.conformance.expectations import TESTS, Case, Published
from tests.conformance.hosts import Pod
from tests.conformance.mesh import Mesh
from tests.support.waiting import eventually

pytestmark = pytest.mark.real

CONSISTENT_SECONDS = 15.0
IN_A_ROW = 3
"""As the published suite: that often an answer has to be right."""


@pytest.mark.parametrize("test", TESTS, ids=[test.name for test in TESTS])
def test_published(test: Published, mesh: Mesh) -> None:
    """Each published test with each of its requests, but for those that are listed with a reason."""
    manifest = mesh.suite / "tests/mesh" / test.manifest
    with mesh.applied(manifest.read_text()) if test.manifest else nullcontext():
        wrong = list(unmet(mesh, [case for case in test.cases if not case.cannot]))
    assert not wrong, "\n".join(wrong)


def unmet(mesh: Mesh, cases: list[Case]) -> Iterator[str]:
    """What is wrong with requests that were not answered as expected, so many times in a row, in the time for all."""
    deadline = time.monotonic() + CONSISTENT_SECONDS
    for case in cases:
        pod = mesh.hosts.caller(case.namespace)
        try:
            eventually(partial(consistent, pod, case), timeout=max(0, deadline - time.monotonic()), what=str(case))
            if case.shares:
                assert not (faults := shared(pod, case)), f"{case}: {'; '.join(faults)}"
        except AssertionError as exc:
            yield str(exc)


def consistent(pod: Pod, case: Case) -> bool:
    for _ in range(IN_A_ROW):
        try:
            faults = list(judge.faults(case, pod.ask(case)))
        except OSError as exc:
            faults = [f"no answer: {exc!r}"]
        assert not faults, "; ".join(faults)
    return True


def shared(pod: Pod, case: Case) -> list[str]:
    """Chance may spoil some of the attempts, but not all."""
    faults: list[str] = []
    for _ in range(judge.ATTEMPTS):
        if not (faults := list(judge.skew(case, pod.backends(case, judge.REQUESTS)))):
            break
    return faults
