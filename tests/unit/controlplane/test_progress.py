"""How far a revision has come, from what proxies say of themselves."""

import pytest

from controlplane.progress import Absences, Fleet, Question, Standing, document, judge, newest, programmed, standing
from mesh.model.uplink import Rejected, Report

ASKED = Question(7, "e1", frozenset({"Service shop/api"}))


def proxy(node: str = "n1", **more) -> Standing:
    values = {"reported": True, "epoch": "e1", "observed": 7, "applied": 7, "phase": "serving", "envoy": "live"}
    return Standing(node=node, **values | more)


def verdict(*proxies: Standing, question: Question = ASKED, **more):
    nodes = more.pop("nodes", frozenset(one.node for one in proxies))
    return judge(question, Fleet(frozenset(nodes), {one.node: one for one in proxies}, **more))


def test_a_revision_is_in_force_when_every_live_proxy_has_it_or_a_newer_one():
    found = verdict(proxy("a"), proxy("b", observed=9, applied=8))
    assert (found.state, found.in_force, found.live) == ("in force", 2, 2)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"reported": False}, "has not reported"),
        ({"epoch": "e0"}, "another history"),
        ({"epoch": "", "observed": 0, "applied": 0}, "has not read the store"),
        ({"observed": 6, "applied": 6}, "has not seen it"),
        ({"observed": 6, "applied": 6, "phase": "stale"}, "stale"),
        ({"applied": 6}, "being put in force"),
        ({"applied": 6, "failure": "Envoy refused lds: no"}, "Envoy refused lds: no"),
        ({"applied": 6, "envoy": "down"}, "its Envoy is down"),
        ({"applied": 0, "phase": "syncing"}, "syncing"),
        ({"applied": 6, "phase": "draining"}, "draining"),
    ],
)
def test_whoever_lacks_it_is_named_with_the_reason(more, reason):
    found = verdict(proxy("a"), proxy("b", **more))
    assert (found.state, found.in_force, found.live) == ("waiting", 1, 2)
    ((node, why),) = found.waiting
    assert node == "b"
    assert reason in why


def test_a_refused_object_of_the_question_decides_at_once():
    found = verdict(proxy("a", rejected={"Service shop/api": "no such regex"}), proxy("b", applied=3))
    assert (found.state, found.in_force) == ("rejected", 0)
    assert [(r.node, r.object, r.reason) for r in found.refusals] == [("a", "Service shop/api", "no such regex")]


def test_refusals_of_other_objects_and_of_older_versions_do_not_count():
    assert verdict(proxy(rejected={"Service shop/other": "no"})).state == "in force"
    before = verdict(proxy(rejected={"Service shop/api": "no"}, observed=6, applied=6))
    assert before.state == "waiting"
    restored = verdict(proxy(rejected={"Service shop/api": "no"}, epoch="e0"))
    assert restored.state == "waiting"


def test_offline_hosts_are_named_and_hold_nobody_up_unless_asked():
    hosts = {"nodes": {"a", "b"}, "absent": {"b": 100.0}}
    found = verdict(proxy("a"), **hosts)
    assert (found.state, found.live, found.offline) == ("in force", 1, (("b", 100.0),))
    strict = verdict(proxy("a"), question=Question(7, "e1", require_all=True), **hosts)
    assert (strict.state, strict.live) == ("waiting", 2)
    assert "offline" in strict.waiting[0][1]


def test_who_went_a_moment_ago_is_waited_for():
    found = verdict(proxy("a"), nodes={"a", "b"}, absent={"b": 2.0}, grace=15.0)
    assert (found.state, found.live) == ("waiting", 2)


def test_proxies_of_a_replica_that_does_not_answer_are_waited_for():
    found = verdict(proxy("a"), nodes={"a", "b"}, elsewhere={"b": "cp2"}, absent={"b": 1000.0})
    assert found.state == "waiting"
    assert "cp2" in found.waiting[0][1]


def test_nodes_that_exist_no_more_do_not_count():
    assert verdict(proxy("gone", applied=0), nodes=set()).state == "in force"


def test_absence_is_counted_from_when_the_node_was_seen_last():
    absences = Absences(started=100.0)
    absences.observe({"a", "b"}, 110.0)
    assert absences.since("a", 115.0) == 115.0
    absences.observe({"b"}, 120.0)
    absences.observe({"b"}, 130.0)
    assert absences.since("a", 131.0) == 120.0
    assert absences.since("never", 131.0) == 100.0
    absences.observe({"a", "b"}, 140.0)
    absences.observe({"b"}, 150.0)
    assert absences.since("a", 151.0) == 150.0
    absences.forget({"b"})
    assert absences.since("a", 151.0) == 100.0


def test_the_replica_that_heard_a_moving_agent_last_is_right():
    old, new = proxy("a", silent=3.0, applied=1), proxy("a", silent=0.1)
    for order in ([old], [new]), ([new], [old]):
        assert newest(order) == {"a": new}


def test_documents_are_bounded_and_count_what_they_leave_out():
    many = [proxy(f"n{n}", applied=0) for n in range(300)]
    told = document(verdict(*many), now=1000.0)
    assert (len(told["waiting"]), told["waitingCount"], told["state"]) == (200, 300, "waiting")


def test_a_condition_says_how_many_have_this_version():
    found = verdict(proxy("a"), proxy("b", rejected={"Service shop/api": "no"}))
    assert programmed(found) == {"proxies": 1, "of": 2, "revision": 7, "rejected": {"b": "no"}}


def test_a_standing_is_what_an_agent_reports():
    report = Report(
        node="x", epoch="e1", observed=3, applied=2, failure="f", rejected=(Rejected(object="o", reason="r"),)
    )
    assert standing("n1", 0.5, report) == Standing(
        node="n1", silent=0.5, reported=True, epoch="e1", observed=3, applied=2, phase="joining", envoy="down",
        failure="f", rejected={"o": "r"},
    )  # fmt: skip
    assert not standing("n1", 0.5, None).reported
