"""What the checker of published tests takes for right, and for wrong."""

import pytest

from tests.conformance import judge
from tests.conformance.expectations import TESTS, Case
from tests.conformance.hosts import Callee, callee, split
from tests.conformance.judge import Answer

ECHOED = {"deployment": "echo-v1", "path": "/a?b=c", "headers": {"X-Set": ["one", "two"], "other": ["x"]}}


@pytest.mark.parametrize(
    ("case", "fault"),
    [
        (Case("/a", backend="echo-v1", seen_path="/a?b=c", seen={"x-set": "one,two"}, unseen=("gone",)), ""),
        (Case("/a", status=404), "status 200, not 404"),
        (Case("/a", backend="echo-v2"), "answered by echo-v1, not echo-v2"),
        (Case("/a", seen_path="/a"), "the backend saw path /a?b=c, not /a"),
        (Case("/a", seen={"X-Set": "one"}), "the backend saw X-Set: one,two, not one"),
        (Case("/a", seen={"absent": "x"}), "the backend saw absent: None, not x"),
        (Case("/a", unseen=("Other",)), "the backend saw Other: x, which should not be there"),
        (Case("/a", answered={"served": "yes"}, unanswered=("x-set",)), ""),
        (Case("/a", answered={"Served": "no"}), "the answer has Served: yes, not no"),
        (Case("/a", unanswered=("served",)), "the answer has served: yes, which should not be there"),
        (Case("/a", location="http://echo/a"), "location None, not http://echo/a"),
    ],
)
def test_what_is_wrong_with_an_answer(case, fault):
    answer = Answer(200, (("Served", "yes"),), ECHOED)
    assert list(judge.faults(case, answer)) == ([fault] if fault else [])


@pytest.mark.parametrize(
    ("said", "right"),
    [
        ("https://echo/a", True),
        ("https://echo:443/a", True),
        ("https://echo:4430/a", False),
        ("https://echo:80/a", False),
        ("http://echo/a", False),
        ("https://echo/a/", False),
        ("https://echo.shop/a", False),
        ("/a", False),
    ],
)
def test_a_redirect_leads_where_it_should(said, right):
    case = Case("/a", status=302, location="https://echo/a")
    assert (not list(judge.faults(case, Answer(302, (("location", said),))))) == right


def test_shares_may_be_off_by_chance_only():
    case = Case("/", shares={"echo-v1": 0.7, "echo-v2": 0.3})
    assert not list(judge.skew(case, ["echo-v1"] * 360 + ["echo-v2"] * 140))
    assert len(list(judge.skew(case, ["echo-v1"] * 250 + ["echo-v2"] * 250))) == 2
    assert len(list(judge.skew(case, ["echo-v1"] * 500))) == 2
    assert list(judge.skew(case, ["echo-v1"] * 349 + ["echo-v2"] * 150 + [""])) == [
        "nobody answered 0.002 of 500 requests, not 0.000"
    ]


def test_a_host_is_a_service_of_the_callers_namespace_unless_it_says_another():
    assert callee(Case(host="echo", namespace="a")) == Callee("a", "echo", 80)
    assert callee(Case(host="echo.b:8080", namespace="a")) == Callee("b", "echo", 8080)


def test_deployments_are_taken_out_and_the_rest_stays_word_for_word():
    rest = "\nkind: Service\nmetadata: {name: s} # as it is\n"
    deployment = """
kind: Deployment
metadata: {name: echo-v1, namespace: n}
spec:
  template:
    metadata: {labels: {app: echo}}
    spec:
      containers: [{args: [--tcp=9090, --port=8080, --grpc=7070, --port=8443, --tls=8443, --crt=/cert.crt]}]
"""
    found, kept = split(f"---{deployment}---{rest}---\n")
    assert kept == rest
    assert [(d.name, d.namespace, d.labels, d.http, d.grpc, d.tcp) for d in found] == [
        ("echo-v1", "n", {"app": "echo"}, (8080,), (7070,), (9090,))
    ]


def test_each_expectation_expects_something():
    """So that no request is judged right whatever comes back."""
    for test in TESTS:
        assert any(not case.cannot for case in test.cases), test.name
        if test.manifest:
            for case in test.cases:
                assert case.status != 200 or case.backend or case.location or case.shares, (test.name, str(case))
