"""The rules of one stream, one by one. Their interplay is in tests/sim/xds."""

import pytest

from agent.xds.stream import Acked, Nacked, Stream, Withheld
from agent.xds.wire import Request, Send
from mesh import pb
from mesh.compile.types import Resource, Snapshot
from mesh.model import Revision

CDS, EDS, LDS, RDS, SDS = pb.CLUSTER, pb.ENDPOINT, pb.LISTENER, pb.ROUTE, pb.SECRET
SHORT = {"cds": CDS, "eds": EDS, "lds": LDS, "rds": RDS, "sds": SDS}


def cluster(name, endpoints="", version=""):
    message = pb.Cluster(name=name, type=pb.Cluster.EDS)
    message.eds_cluster_config.service_name = endpoints
    return Resource(name, version or "1", message.SerializeToString())


def res(name, version="1"):
    return Resource(name, version, b"")


def snapshot(revision=1, before=None, **types):
    """A type that is not named is as before."""
    resources = dict(before.resources) if before else {url: {} for url in SHORT.values()}
    resources.update({SHORT[short]: {r.name: r for r in listed} for short, listed in types.items()})
    return Snapshot(Revision(revision), f"digest {revision}".encode(), resources)


def sends(outputs):
    return [(o.type_url, [r.name for r in o.resources], list(o.removed)) for o in outputs if isinstance(o, Send)]


def ack(stream, outputs, error=None):
    """Answer all of these responses, and return what follows."""
    follow = []
    for output in outputs:
        if isinstance(output, Send):
            follow += stream.on_request(Request(output.type_url, nonce=output.nonce, error=error))
    return follow


def settle(stream, outputs):
    """Acknowledge until nothing is sent; returns everything that came."""
    seen = list(outputs)
    while outputs:
        outputs = ack(stream, outputs)
        seen += outputs
    return seen


def connected(first, *named):
    """A stream whose client holds the snapshot and subscribed these (type, names)."""
    stream = Stream()
    settle(stream, stream.on_snapshot(first))
    settle(stream, stream.on_request(Request(CDS)))
    settle(stream, stream.on_request(Request(LDS)))
    for url, names in named:
        settle(stream, stream.on_request(Request(url, subscribe=names)))
    return stream


def test_nothing_is_answered_before_there_is_a_snapshot():
    stream = Stream()

    assert stream.on_request(Request(CDS)) == ()
    assert sends(stream.on_snapshot(snapshot(cds=[cluster("a")]))) == [(CDS, ["a"], [])]


def test_wildcard_without_resources_is_answered_with_nothing():
    stream = Stream()
    stream.on_snapshot(snapshot())

    assert sends(stream.on_request(Request(CDS))) == [(CDS, [], [])]


def test_a_name_that_does_not_exist_is_answered_as_removed_once_and_sent_when_it_comes():
    first = snapshot()
    stream = connected(first)

    out = stream.on_request(Request(EDS, subscribe=("x",)))
    assert sends(out) == [(EDS, [], ["x"])]
    assert sends(ack(stream, out)) == []
    assert sends(stream.on_snapshot(snapshot(2, first, eds=[res("x")]))) == [(EDS, ["x"], [])]


def test_named_types_get_what_they_ask_for_only():
    stream = connected(snapshot(eds=[res("x"), res("y")]))

    assert sends(stream.on_request(Request(EDS, subscribe=("y",)))) == [(EDS, ["y"], [])]
    assert stream.held()[EDS] == 1


def test_an_empty_first_request_means_everything_only_for_clusters_and_listeners():
    stream = connected(snapshot(eds=[res("x")]))

    assert sends(stream.on_request(Request(EDS))) == []


def test_a_star_means_everything_for_any_type_until_it_is_taken_back():
    first = snapshot(eds=[res("x")])
    stream = connected(first)
    out = stream.on_request(Request(EDS, subscribe=("*",)))
    assert sends(out) == [(EDS, ["x"], [])]
    ack(stream, out)

    stream.on_request(Request(EDS, unsubscribe=("*",)))

    assert sends(stream.on_snapshot(snapshot(2, first, eds=[res("x", "2")]))) == []


def test_unsubscribed_names_are_not_sent_any_more():
    first = snapshot(eds=[res("x"), res("y")])
    stream = connected(first, (EDS, ("x", "y")))
    stream.on_request(Request(EDS, unsubscribe=("x",)))

    assert sends(stream.on_snapshot(snapshot(2, first, eds=[res("x", "2"), res("y", "2")]))) == [(EDS, ["y"], [])]


def test_what_is_subscribed_again_is_sent_again():
    stream = connected(snapshot(eds=[res("x")]), (EDS, ("x",)))

    assert sends(stream.on_request(Request(EDS, subscribe=("x",)))) == [(EDS, ["x"], [])]


def test_resume_sends_only_what_differs():
    stream = Stream()
    stream.on_snapshot(snapshot(cds=[cluster("a", version="2"), cluster("b"), cluster("new")]))

    out = stream.on_request(Request(CDS, initial_versions={"a": "1", "b": "1", "gone": "1"}))
    assert sends(out) == [(CDS, ["a", "new"], [])]
    assert sends(settle(stream, ack(stream, out))) == [(CDS, [], ["gone"])]


def test_resume_of_unchanged_sends_no_resource():
    stream = Stream()
    stream.on_snapshot(snapshot(cds=[cluster("a")], eds=[res("x")]))

    assert sends(stream.on_request(Request(CDS, initial_versions={"a": "1"}))) == [(CDS, [], [])]
    assert sends(stream.on_request(Request(EDS, subscribe=("x",), initial_versions={"x": "1"}))) == []


def test_what_was_removed_while_away_is_removed():
    stream = Stream()
    stream.on_snapshot(snapshot())

    out = settle(stream, stream.on_request(Request(LDS, initial_versions={"old": "1"})))

    assert sends(out) == [(LDS, [], ["old"])]
    assert stream.held() == {LDS: 0}


def test_what_was_taken_of_a_refused_response_is_removed_though_the_client_does_not_name_it():
    """Envoy applies the good part of a refused response, and tells of none of it when it comes again."""
    first = snapshot(lds=[res("bad"), res("good")])
    broken = Stream("1.")
    broken.on_snapshot(first)
    settle(broken, broken.on_request(Request(CDS)))
    assert [type(o) for o in ack(broken, broken.on_request(Request(LDS)), "no")] == [Nacked]

    stream = Stream("2.", distrust=broken.doubts())
    stream.on_snapshot(snapshot(2, first, lds=[]))
    settle(stream, stream.on_request(Request(CDS)))
    assert sends(stream.on_request(Request(LDS))) == [(LDS, [], ["bad", "good"])]


def test_clusters_first_listeners_when_they_are_acknowledged_removals_last():
    first = snapshot(cds=[cluster("a")], lds=[res("l")], sds=[res("s")])
    stream = connected(first, (SDS, ("s",)))
    second = snapshot(2, first, cds=[cluster("b")], lds=[res("m")], sds=[res("s", "2")])

    out = stream.on_snapshot(second)
    assert sends(out) == [(SDS, ["s"], []), (CDS, ["b"], [])]
    out = ack(stream, out)
    assert sends(out) == [(LDS, ["m"], ["l"])]
    out = ack(stream, out)
    assert sends(out) == [(CDS, [], ["a"])]
    assert ack(stream, out) == [Acked(second.digest, Revision(2), (SDS, CDS, LDS))]


def test_endpoints_flow_while_clusters_are_unanswered():
    """Envoy does not acknowledge clusters before they are warm, and endpoints are what they wait for."""
    stream = Stream()
    stream.on_snapshot(snapshot(cds=[cluster("a", "x")], eds=[res("x")]))

    assert sends(stream.on_request(Request(CDS))) == [(CDS, ["a"], [])]
    assert sends(stream.on_request(Request(EDS, subscribe=("x",)))) == [(EDS, ["x"], [])]


@pytest.mark.parametrize("named", ["x", "a"])
def test_a_changed_cluster_sends_its_endpoints_again(named):
    """By its service name, or by its own where it has none."""
    endpoints = "" if named == "a" else named
    first = snapshot(cds=[cluster("a", endpoints)], eds=[res(named)])
    stream = connected(first, (EDS, (named,)))

    out = stream.on_snapshot(snapshot(2, first, cds=[cluster("a", endpoints, "2")]))

    assert sends(out) == [(CDS, ["a"], []), (EDS, [named], [])]


def test_one_response_a_type_is_unanswered_and_the_newest_snapshot_wins():
    first = snapshot(eds=[res("x"), res("y")])
    stream = connected(first, (EDS, ("x", "y")))
    out = stream.on_snapshot(snapshot(2, first, eds=[res("x", "2"), res("y")]))
    assert sends(out) == [(EDS, ["x"], [])]
    assert stream.on_snapshot(snapshot(3, first, eds=[res("x", "3"), res("y", "3")])) == ()
    fourth = snapshot(4, first, eds=[res("x", "4"), res("y")])
    assert stream.on_snapshot(fourth) == ()

    out = ack(stream, out)

    assert [o.resources for o in out] == [(res("x", "4"),)]
    assert ack(stream, out) == [Acked(fourth.digest, Revision(4), (EDS,))]


def test_a_snapshot_that_changes_nothing_for_the_client_is_acknowledged_at_once():
    first = snapshot(eds=[res("x")])
    stream = connected(first)
    second = snapshot(2, first, eds=[res("x", "2")])

    assert stream.on_snapshot(second) == (Acked(second.digest, Revision(2), ()),)


def test_nothing_is_acknowledged_before_listeners_were_asked_for():
    stream = Stream()
    stream.on_snapshot(snapshot())

    assert settle(stream, stream.on_request(Request(CDS)))[1:] == []
    assert [type(o) for o in settle(stream, stream.on_request(Request(LDS)))] == [Send, Acked]


def test_answers_to_older_responses_say_nothing():
    first = snapshot(cds=[cluster("a")])
    stream = connected(first)
    out = stream.on_snapshot(snapshot(2, first, cds=[cluster("a", version="2")]))

    assert stream.on_request(Request(CDS, nonce="1", error="late")) == ()
    assert stream.waiting == (CDS,)
    assert [type(o) for o in ack(stream, out)] == [Acked]


def test_subscriptions_in_a_stale_request_count():
    stream = connected(snapshot(eds=[res("x")]))

    assert sends(stream.on_request(Request(EDS, subscribe=("x",), nonce="999"))) == [(EDS, ["x"], [])]


def test_a_refusal_is_told_with_its_words_and_not_sent_again():
    first = snapshot(cds=[cluster("a"), cluster("b")])
    stream = connected(first)
    second = snapshot(2, first, cds=[cluster("a", version="2"), cluster("b", version="2")])

    out = ack(stream, stream.on_snapshot(second), "bad")

    assert out == [Nacked(second.digest, Revision(2), CDS, ("a", "b"), "bad")]
    again = snapshot(3, second)
    assert stream.on_snapshot(again) == (Withheld(again.digest, Revision(3), CDS, "bad"),), "no answer is to come"
    assert stream.on_request(Request(CDS, nonce="0.7")) == (), "said once"


def test_what_is_held_back_is_told_when_all_else_is_answered():
    first = snapshot(cds=[cluster("a")], lds=[res("l")], eds=[res("x")])
    stream = connected(first, (EDS, ("x",)))
    second = snapshot(2, first, lds=[res("l", "bad")])
    ack(stream, stream.on_snapshot(second), "no")
    third = snapshot(3, second, eds=[res("x", "2")])

    out = stream.on_snapshot(third)
    assert sends(out) == [(EDS, ["x"], [])]
    assert len(out) == 1, "an answer is to come"
    assert ack(stream, out) == [Withheld(third.digest, Revision(3), LDS, "no")]

    mended = stream.on_snapshot(snapshot(4, third, lds=[res("l", "3")]))
    assert sends(mended) == [(LDS, ["l"], [])]
    assert [type(o) for o in ack(stream, mended)] == [Acked]


def test_a_refused_response_holds_back_what_may_refer_to_it_and_nothing_else():
    first = snapshot(cds=[cluster("a")], lds=[res("l")], eds=[res("x")], sds=[res("s")])
    stream = connected(first, (EDS, ("x",)), (SDS, ("s",)))
    second = snapshot(2, first, cds=[cluster("a", version="bad")])
    ack(stream, stream.on_snapshot(second), "bad")

    third = snapshot(3, second, lds=[res("l", "2")], eds=[res("x", "2")], sds=[res("s", "2")])

    assert sends(settle(stream, stream.on_snapshot(third))) == [(SDS, ["s"], []), (EDS, ["x"], [])]


def test_after_a_refusal_the_rest_of_it_goes_when_the_guilty_one_changes():
    """Envoy may hold either version of each, so the innocent is sent again with the other."""
    first = snapshot(cds=[cluster("a"), cluster("b")])
    stream = connected(first)
    second = snapshot(2, first, cds=[cluster("a", version="2"), cluster("b", version="bad")])
    ack(stream, stream.on_snapshot(second), "bad")

    out = stream.on_snapshot(snapshot(3, second, cds=[cluster("a", version="2"), cluster("b")]))

    assert sends(out) == [(CDS, ["a", "b"], [])]


def test_a_refused_removal_is_not_repeated():
    first = snapshot(lds=[res("l")])
    stream = connected(first)
    out = ack(stream, stream.on_snapshot(snapshot(2, first, lds=[])), "no")

    assert [type(o) for o in out] == [Nacked]
    assert stream.waiting == ()


def test_types_that_are_not_served_are_answered_with_nothing_and_bounded():
    stream = connected(snapshot())

    assert sends(stream.on_request(Request("other", subscribe=("x",)))) == [("other", [], ["x"])]
    for number in range(100):
        settle(stream, stream.on_request(Request(f"type {number}", subscribe=("x",))))
    assert len(stream._subscriptions) == 21


def test_a_hint_is_used_only_against_its_own_base():
    first = snapshot(eds=[res("x"), res("y")])
    stream = connected(first, (EDS, ("x", "y")))
    changed = {EDS: {"x": res("x", "2"), "y": res("y", "2")}}
    hinted = Snapshot(Revision(2), b"2", {**first.resources, **changed}, base=b"other", changed={EDS: frozenset("x")})

    assert sends(stream.on_snapshot(hinted)) == [(EDS, ["x", "y"], [])]


def test_an_endpoint_change_costs_what_changed(monkeypatch):
    """With a hint, the other names are not looked at."""
    looked = []

    class Watched(dict):
        def get(self, name, default=None):
            looked.append(name)
            return super().get(name, default)

        def __iter__(self):
            raise AssertionError("walks over everything")

        items = keys = values = __iter__

    many = {f"e{i}": res(f"e{i}") for i in range(1000)}
    first = snapshot(eds=list(many.values()))
    stream = connected(first, (EDS, tuple(many)))
    after = Watched({**many, "e7": res("e7", "2")})
    hinted = Snapshot(
        Revision(2), b"2", {**first.resources, EDS: after}, base=first.digest, changed={EDS: frozenset({"e7"})}
    )

    assert sends(stream.on_snapshot(hinted)) == [(EDS, ["e7"], [])]
    assert looked == ["e7"]
