"""The rule: over 30 % and at least 10, undeclared."""

import pytest

from mesh.store.guard import Allow, Hold, judge


@pytest.mark.parametrize(
    ("known", "lost", "declared", "held"),
    [
        (100, 31, 0, True),
        (100, 30, 0, False),
        (12, 10, 0, True),
        (12, 9, 0, False),
        (10, 10, 0, True),
        (9, 9, 0, False),
        (1000, 1000, 1000, False),
        (1000, 1000, 999, True),
        (1000, 1000, -5, True),
        (0, 0, 0, False),
    ],
)
def test_only_an_undeclared_mass_loss_is_held(known, lost, declared, held):
    assert isinstance(judge(known, lost, declared), Hold if held else Allow)


def test_the_reason_has_the_figures():
    assert judge(100, 50, 0) == Hold(
        "50 of 100 keys are gone from the store, and no control-plane transaction declared it"
    )
    assert judge(100, 50, 3) == Hold("50 of 100 keys are gone from the store, and only 3 deletions were declared")
