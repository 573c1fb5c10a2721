"""The accounts of a load are exact."""

from controlplane.demo.check.load import Request, account


def request(sent: float, finished: float, *, ok: bool = True, instance: str = "api-1") -> Request:
    return Request(
        sent=sent,
        finished=finished,
        fresh=False,
        status=200 if ok else 503,
        error="" if ok else "upstream gone",
        instance=instance if ok else "",
    )


def test_a_request_under_way_at_the_kill_is_not_counted_as_a_failure_after_it():
    found = account([request(9.9, 10.1, ok=False), request(10.0, 10.2), request(10.3, 10.4, ok=False)], 10.0, 11.0)
    assert (found.sent, found.failed, found.in_flight_failed) == (2, 1, 1)
    assert found.reasons == {"upstream gone": 1}


def test_a_failure_that_ended_before_the_kill_is_in_no_account():
    found = account([request(9.0, 9.5, ok=False), request(10.1, 10.2)], 10.0, 11.0)
    assert (found.failed, found.in_flight_failed) == (0, 0)


def test_a_request_sent_at_the_end_belongs_to_the_next_account():
    known = [request(10.0, 10.1), request(11.0, 11.1)]
    assert account(known, 10.0, 11.0).sent == 1
    assert account(known, 11.0, 12.0).sent == 1


def test_the_gap_is_the_longest_time_without_a_success():
    known = [request(10.0, 10.5), request(10.6, 10.7, ok=False), request(12.0, 12.5)]
    assert account(known, 10.0, 13.0).longest_gap_s == 2.0


def test_a_window_without_success_is_one_gap():
    assert account([], 10.0, 13.0).longest_gap_s == 3.0


def test_answers_are_counted_by_who_gave_them_and_times_are_of_successes():
    known = [request(10.0, 10.01), request(10.1, 10.13, instance="api-2"), request(10.2, 15.2, ok=False)]
    found = account(known, 10.0, 11.0)
    assert found.by_instance == {"api-1": 1, "api-2": 1}
    assert found.p50_ms == 30.0
    assert found.p99_ms == 30.0
