import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from bench.stats import Figure, Report, latency, quantile, spread

samples = st.lists(st.floats(min_value=0, max_value=1e6), min_size=1, max_size=200)


@given(samples, st.floats(min_value=0, max_value=1))
def test_a_quantile_is_a_sample_with_that_share_below_it(values, share):
    found = quantile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values)
    assert sum(value < found for value in values) <= share * len(values)


def test_nothing_measured_is_no_figure():
    with pytest.raises(ValueError, match="no samples"):
        quantile([], 0.5)


def test_latencies_are_told_in_milliseconds():
    figure = latency("x", [n / 1000 for n in range(1, 101)])
    assert figure.unit == "ms"
    assert figure.samples == 100
    assert figure.values == pytest.approx({"p50": 51.0, "p99": 100.0, "max": 100.0})


def test_a_spread_is_the_median_and_the_ends():
    assert spread("x", "MB", [3.0, 1.0, 2.0]).values == {"median": 2.0, "low": 1.0, "high": 3.0}


def test_a_report_shows_each_note_once_and_writes_all(tmp_path):
    report = Report(facts={"cpus": 2})
    report.add(
        Figure("one [a]", "ms", 3, {"p50": 1234.5}, goal="≤ 8", notes="as told"),
        Figure("two", "MB", 1, {"rss": 59.68}, notes="as told"),
    )
    out = io.StringIO()
    report.show(Console(file=out, width=200))
    text = out.getvalue()
    assert text.count("as told") == 1
    assert "p50 1,234" in text
    assert "one [a]" in text
    assert "cpus: 2" in text
    report.write(tmp_path / "out" / "figures.json")
    written = json.loads((tmp_path / "out" / "figures.json").read_text())
    assert written["facts"] == {"cpus": 2}
    assert [figure["values"] for figure in written["figures"]] == [{"p50": 1234.5}, {"rss": 59.68}]
