"""Sums, grams and pay-back: totals equal their parts, and what was not measured is never 0."""

import math

from hypothesis import given
from hypothesis import strategies as st

from registry import footprint as fp
from registry.carbon.payback import break_even
from registry.records import Attempt, Band, Footprint, StageRecord

amounts = st.floats(min_value=1e-9, max_value=1e3)


def measured(kwh: float, seconds: float = 10.0) -> Footprint:
    band = Band(low=kwh / 2, central=kwh, high=kwh * 2)
    return Footprint(kwh=band, seconds=seconds, cpu_kwh=kwh / 4, ram_kwh=kwh * 3 / 4, tier="cpu modelled, ram constant")


def stage(key: str, footprint: Footprint, cached: bool = False) -> StageRecord:
    return StageRecord(
        key=key, kind="data", method=None, role="data", digest="d", bytes=1, inputs={}, config={}, footprint=footprint,
        cpu_seconds=1.0, peak_rss_mb=1.0, started="2026-01-01T00:00:00Z", cached=cached,
    )  # fmt: skip


@given(st.lists(st.one_of(st.none(), amounts)))
def test_total_is_the_sum_of_measured_parts(values: list[float | None]) -> None:
    items = [Footprint(kwh=None, seconds=1.0) if value is None else measured(value) for value in values]
    result = fp.total(items)
    known = [value for value in values if value is not None]
    assert result.unmeasured == len(values) - len(known)
    if not known:
        assert result.kwh is None and result.cpu_kwh is None
        return
    assert result.kwh is not None and result.cpu_kwh is not None and result.ram_kwh is not None
    assert math.isclose(result.kwh.central, sum(known))
    assert math.isclose(result.cpu_kwh + result.ram_kwh, result.kwh.central)
    assert result.kwh.low <= result.kwh.central <= result.kwh.high


def test_reused_stages_count_once() -> None:
    first, again = stage("a", measured(1.0)), stage("a", measured(1.0), cached=True)
    orphan = stage("b", measured(2.0), cached=True)
    result = fp.spent([again, first, again, orphan, orphan])
    assert result.kwh is not None and result.kwh.central == 3.0
    assert result.stages == 2


def test_what_was_spent_in_vain_counts_and_work_that_was_taken_up_counts_once() -> None:
    lower = Footprint(kwh=None, at_least_kwh=measured(2.0).kwh, seconds=3.0, why="killed", samples="a" * 64)
    killed = Attempt(stage="01-data", ended="killed", started="2026-01-01T00:00:00Z", footprint=lower)
    made = stage("k", measured(1.0).model_copy(update={"samples": "b" * 64}), cached=True)
    left = Attempt(stage="02-floor", ended="failed", started="2026-01-01T00:00:00Z", footprint=made.footprint)
    whole = fp.spent([made], [killed, left])
    assert whole.kwh is not None and whole.kwh.central == 3.0
    assert (whole.stages, whole.unmeasured) == (2, 1), "the sum is a lower bound"
    assert fp.spent([], [left]).kwh == made.footprint.kwh


def test_request_energy_is_power_times_latency() -> None:
    band = fp.request_wh(measured(0.001, seconds=36.0), 360.0)  # 100 W for 0.36 s
    assert band is not None and math.isclose(band.central, 0.01)
    assert fp.request_wh(Footprint(kwh=None, seconds=1.0), 5.0) is None


def test_pay_back() -> None:
    cost, big = Band(low=1, central=2, high=4), Band(low=2, central=4, high=8)
    small = Band(low=1, central=2, high=4)
    result = break_even(cost, big, small).requests
    assert result is not None and result == Band(low=250.0, central=1000.0, high=4000.0)
    assert break_even(cost, small, big).why.startswith("never")
    assert break_even(cost, small, small).requests is None
    assert break_even(None, big, small).why.startswith("unknown")
    assert break_even(cost, None, small).why.startswith("unknown")
