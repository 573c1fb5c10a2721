"""The guilty are found, all of them, in few trials; what stands in never grants what was taken away."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import quarantine
from agent.quarantine import Search, changed, keep, newest, plan, substitute
from mesh.model import (
    AuthorizationPolicy,
    AuthorizationPolicySpec,
    AuthorizationRule,
    AuthorizationSource,
    AuthorizationTarget,
    MeshConfig,
    MeshConfigSpec,
    Metadata,
    Ref,
    Revision,
    Service,
    World,
)
from mesh.model.world import Removed, Upserted


def ref(number):
    return Ref("Service", "shop", f"s{number:04}")


def search(suspects, guilty, *, max_trials=quarantine.MAX_TRIALS, clashes=()):
    """Run it against an oracle that refuses any of the guilty, and any pair that clashes."""
    found = Search(suspects, max_trials=max_trials)
    while (trial := found.next_trial()) is not None:
        found.result(accepted=not trial & guilty and not any(trial >= {a, b} for a, b in clashes))
    return found


@given(st.integers(1, 60), st.data())
def test_all_guilty_are_found_and_no_other(count, data):
    suspects = [ref(i) for i in range(count)]
    guilty = data.draw(st.sets(st.sampled_from(suspects), min_size=1, max_size=4))

    found = search(suspects, guilty, max_trials=10_000)

    assert (found.verdict, found.guilty) == ("found", guilty)


@given(st.integers(1, 60), st.data())
def test_all_guilty_are_found_whichever_are_likely(count, data):
    suspects = [ref(i) for i in range(count)]
    guilty = data.draw(st.sets(st.sampled_from(suspects), min_size=1, max_size=4))
    likely = data.draw(st.sets(st.sampled_from(suspects)))
    found, tried, foreseen = Search(suspects, likely=likely, max_trials=10_000), [], None
    while (trial := found.next_trial()) is not None:
        assert foreseen in {None, trial}, "what was foreseen is what comes"
        tried.append(trial)
        foreseen = found.foreseen()
        found.result(accepted=not trial & guilty)
    assert (found.verdict, found.guilty) == ("found", guilty)
    assert len(tried) == len(set(tried))


def test_a_likely_one_among_a_thousand_takes_two_trials():
    suspects = [ref(i) for i in range(1000)]
    for number in (0, 499, 999):
        found = Search(suspects, likely={ref(number)})
        while (trial := found.next_trial()) is not None:
            found.result(accepted=ref(number) not in trial)
        assert (found.trials, found.guilty) == (2, {ref(number)})


def test_the_newest_are_those_of_the_last_revision():
    def changed_at(number, revision):
        meta = Metadata(name=ref(number).name, namespace="shop", resource_version=str(revision))
        return Service(metadata=meta)

    objects = {ref(n): changed_at(n, revision) for n, revision in enumerate((5, 7, 7))}
    assert newest(objects, objects) == {ref(1), ref(2)}
    assert newest([ref(0), ref(9)], objects) == {ref(0)}
    assert newest([], objects) == frozenset()


def test_one_among_a_thousand_takes_some_twelve_trials():
    suspects = [ref(i) for i in range(1000)]

    assert all(search(suspects, {ref(i)}).trials <= 13 for i in (0, 499, 500, 999))


def test_one_that_changed_alone_takes_two_trials():
    assert search([ref(1)], {ref(1)}).trials == 2


@given(st.integers(1, 60), st.data())
def test_no_trial_is_made_twice(count, data):
    suspects = [ref(i) for i in range(count)]
    guilty = data.draw(st.sets(st.sampled_from(suspects), min_size=1, max_size=4))
    found, tried = Search(suspects, max_trials=10_000), []
    while (trial := found.next_trial()) is not None:
        tried.append(trial)
        found.result(accepted=not trial & guilty)
    assert len(tried) == len(set(tried))


@given(st.integers(2, 30), st.data())
def test_of_two_that_clash_one_is_blamed(count, data):
    suspects = [ref(i) for i in range(count)]
    a, b = data.draw(st.lists(st.sampled_from(suspects), min_size=2, max_size=2, unique=True))

    assert search(suspects, set(), clashes=[(a, b)]).guilty == {max(a, b)}


def test_a_refusal_that_trials_do_not_show_is_told():
    found = search([ref(1), ref(2)], set())

    assert (found.verdict, found.guilty, found.trials) == ("not reproduced", frozenset(), 1)


def test_a_refusal_that_was_there_before_is_not_blamed_on_what_changed():
    found = Search([ref(1), ref(2)])
    while found.next_trial() is not None:
        found.result(accepted=False)

    assert (found.verdict, found.guilty, found.trials) == ("not these", frozenset(), 3)


def test_without_suspects_there_is_nothing_to_try():
    found = Search([])

    assert (found.next_trial(), found.verdict) == (None, "not these")


def test_when_trials_run_out_what_is_not_cleared_is_guilty():
    suspects = [ref(i) for i in range(64)]

    found = search(suspects, set(suspects), max_trials=10)

    assert found.exhausted
    assert found.trials == 10
    assert found.guilty == set(suspects)


# --- what stands in --------------------------------------------------------------------------------------------------

ANN, BOB = (
    AuthorizationRule(name=n, sources=(AuthorizationSource(principals=(f"shop/{n}",)),)) for n in ("ann", "bob")
)
BAD = AuthorizationRule(name="bad", ports=(1,))


def policy(action, *rules, service="api"):
    target = AuthorizationTarget(service=service)
    spec = AuthorizationPolicySpec(target=target, action=action, rules=rules)
    return AuthorizationPolicy(metadata=Metadata(name="p", namespace="shop"), spec=spec)


def service(version=""):
    return Service(metadata=Metadata(name="api", namespace="shop", labels={"v": version}))


def stand_in(old, new):
    name = (old or new).ref
    (replacement,) = plan([name], {name: old} if old else {}, {name: new} if new else {})
    assert replacement.ref == name
    return replacement.in_force, replacement.object


def test_the_last_accepted_version_or_nothing():
    assert stand_in(service("1"), service("2")) == ("last accepted version", service("1"))
    assert stand_in(None, service("2")) == ("nothing", None)
    assert stand_in(service("1"), None) == ("last accepted version", service("1"))


def test_a_new_deny_policy_denies_all_of_its_target():
    in_force, stand = stand_in(None, policy("Deny", BAD, service="db"))

    assert in_force == "deny all"
    assert stand.spec.action == "Deny"
    assert stand.spec.target.service == "db"
    assert [(r.sources, r.ports) for r in stand.spec.rules] == [((), ())]


def test_a_deny_policy_stays_only_if_it_denied_as_much():
    old = policy("Deny", ANN, BOB)

    assert stand_in(old, policy("Deny", ANN)) == ("last accepted version", old)
    assert stand_in(old, policy("Deny", ANN, BOB, BAD))[0] == "deny all"
    assert stand_in(old, policy("Deny", ANN, service="other"))[0] == "deny all"
    assert stand_in(policy("Allow", ANN), policy("Deny", ANN))[0] == "deny all"


@pytest.mark.parametrize(
    ("old", "new", "rules"),
    [
        (policy("Allow", ANN), policy("Allow", ANN, BAD), (ANN,)),
        (policy("Allow", ANN, BOB), policy("Allow", BOB, BAD), (BOB,)),
        (policy("Allow", ANN), policy("Allow", BAD), None),
        (policy("Allow", ANN), policy("Allow", ANN, BAD, service="db"), None),
        (policy("Deny", ANN), policy("Allow", ANN, BAD), None),
        (None, policy("Allow", BAD), None),
        (policy("Allow", ANN), None, None),
    ],
)
def test_an_allow_policy_grants_only_what_it_did_and_still_would(old, new, rules):
    in_force, stand = stand_in(old, new)

    assert (stand.spec.rules if stand else None) == rules
    assert in_force == ("last accepted version" if rules else "nothing")


def test_a_deleted_deny_policy_comes_back():
    old = policy("Deny", ANN)

    assert stand_in(old, None) == ("last accepted version", old)


def test_the_default_stays_deny_once_it_is():
    def config(default):
        spec = MeshConfigSpec(trust_domain="a", authorization_default=default)
        return MeshConfig(metadata=Metadata(name="default"), spec=spec)

    assert stand_in(config("Allow"), config("Deny"))[1].spec.authorization_default == "Deny"


# --- worlds ----------------------------------------------------------------------------------------------------------


def test_a_trial_world_has_exactly_the_kept_changes_and_a_substitute_the_replacements():
    web = Service(metadata=Metadata(name="web", namespace="shop"))
    gone = policy("Allow", ANN)
    before = World().apply([Upserted(o, Revision(1)) for o in (service("1"), gone)], Revision(1))
    after = before.apply(
        [Upserted(service("2"), Revision(2)), Upserted(web, Revision(2)), Removed(gone.ref)], Revision(2)
    )
    names = {service().ref, web.ref, gone.ref}

    assert changed(before.objects, after.objects) == names
    assert keep(after, before.objects, names).objects is after.objects
    assert dict(keep(after, before.objects, ()).objects) == dict(before.objects)
    assert dict(keep(after, before.objects, {web.ref}).objects) == {**before.objects, web.ref: web}
    assert keep(after, before.objects, ()).revision == Revision(2)

    replaced = substitute(after, plan([service().ref, web.ref], before.objects, after.objects))
    assert dict(replaced.objects) == {service().ref: service("1")}
