"""Random choices: one number for all of routing, as Envoy has it (`stream_id % 100`), and exact shares."""

import math
from fractions import Fraction
from itertools import accumulate
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mesh.compile.simulate import shares
from mesh.compile.simulate.chance import Drawn, Scripted, joint
from tests.sim.traffic.build import ask, cluster, config, fraction, match, outcomes, snapshot, to, weights

MODULI = [100, 10_000, 3, 7, 12, 60, 1]


@given(st.floats(0, 1, exclude_max=True), st.integers(1, 1000), st.lists(st.integers(0, 1000), max_size=4).map(sorted))
def test_the_first_choice_is_the_draws_place_in_its_range(draw: float, modulus: int, cuts: list[int]):
    value = math.floor(Fraction(draw) * modulus)
    expected = next((index for index, cut in enumerate(cuts) if value < cut), len(cuts))
    assert Drawn(draw).stable(modulus, cuts) == expected == Drawn(draw).fresh(modulus, cuts)


@given(st.integers(0, 10_000 * 21 - 1), st.permutations(MODULI))
def test_choices_by_different_moduli_are_those_of_one_number(number: int, moduli: list[int]):
    """Whatever the order: there is one number that leaves all remainders."""
    drawn = Drawn(number / (10_000 * 21))
    values = {modulus: drawn.stable(modulus, range(1, modulus)) for modulus in moduli}
    assert any(all(n % m == v for m, v in values.items()) for n in range(values[10_000], 10_000 * 84, 10_000))
    assert all(drawn.stable(modulus, range(1, modulus)) == value for modulus, value in values.items())


@given(st.dictionaries(st.sampled_from(MODULI), st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1))
def test_joint_probability_is_a_count(ranges: dict[int, tuple[int, int]]):
    known = {modulus: (min(low, modulus), min(max(low, high), modulus)) for modulus, (low, high) in ranges.items()}
    whole = math.lcm(*known)
    assume(whole <= 50_000)
    met = sum(all(low <= n % modulus < high for modulus, (low, high) in known.items()) for n in range(whole))
    assert joint(known) == Fraction(met, whole)


@pytest.mark.parametrize("draw", [-0.1, 1.0, 2.0, math.nan])
def test_a_draw_is_a_place_in_a_range(draw: float):
    with pytest.raises(ValueError, match="draw"):
        Drawn(draw)


def test_two_choices_by_the_same_number_depend_on_each_other():
    """Half of the requests go on to two equal halves: all of them have low numbers, so all go to the first."""
    routes = config(to("one", match(runtime_fraction=fraction(50)), **weights(one=50, two=50)), to("copy"))
    found = {cluster(share.verdict): share.probability for share in outcomes(snapshot(routes))}
    assert found == {"copy": Fraction(1, 2), "one": Fraction(1, 2)}


def test_numbers_that_share_no_divisor_make_independent_choices():
    routes = config(to("one", match(runtime_fraction=fraction(50)), **weights(one=1, two=2)), to("copy"))
    found = {cluster(share.verdict): share.probability for share in outcomes(snapshot(routes))}
    assert found == {"copy": Fraction(1, 2), "one": Fraction(1, 6), "two": Fraction(1, 3)}


def splits() -> st.SearchStrategy[Any]:
    percents = st.tuples(st.integers(0, 100), st.just("HUNDRED")) | st.tuples(
        st.integers(0, 10_000), st.just("TEN_THOUSAND")
    )
    return st.lists(
        st.tuples(st.lists(st.integers(0, 9), min_size=2, max_size=2).filter(any), percents), min_size=1, max_size=3
    )


@given(splits(), st.integers(0, 99))
def test_shares_are_whole_and_every_draw_is_one_of_them(parts: Any, draw: int):
    routes = [
        to(
            **weights(one=first, two=second),
            matched=match(runtime_fraction=fraction(*percent)),
            route={"name": str(index)},
        )
        for index, ((first, second), percent) in enumerate(parts)
    ]
    found = snapshot(config(*routes))
    all_ = outcomes(found)
    assert sum(share.probability for share in all_) == 1
    assert all(share.probability > 0 for share in all_)
    named = {(cluster(s.verdict), getattr(s.verdict, "route", None)) for s in all_}
    assert len(named) == len(all_)
    verdict = ask(found, draw=draw / 100)
    assert (cluster(verdict), getattr(verdict, "route", None)) in named


@given(st.lists(st.integers(0, 50), min_size=1, max_size=5).filter(any))
def test_scripts_reach_every_choice_once(parts: list[int]):
    total, cuts = sum(parts), list(accumulate(parts))[:-1]
    found, scripts = {}, [()]
    while scripts:
        chance = Scripted(scripts.pop())
        taken = chance.stable(total, cuts)
        found[taken] = chance.probability
        scripts.extend(chance.alternatives())
    assert found == {index: Fraction(part, total) for index, part in enumerate(parts) if part}


def test_one_outcome_has_the_whole_share():
    (share,) = outcomes(snapshot(config(to())))
    assert (share.probability, cluster(share.verdict)) == (1, "one")
    assert share.verdict.trace
    assert shares(lambda _: share.verdict)[0].probability == 1
