"""Energy into grams, litres, scopes, a score and money: by hand, and what is not reported is never 0."""

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from registry.carbon import payback
from registry.carbon.emissions import Emissions, Used, embodied_g, emissions, sci
from registry.carbon.factors import bundled
from registry.carbon.inputs import Basis, basis
from registry.records import Across, Band, Interval, Seconds, Served, ServingEnergy, Window

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
HOUR = Seconds(3600.0)
FILE = """
operator: {operator}
factors: factors.csv
pue: {{value: 1.5, source: the operator, 2025}}
water: {{site_litres_per_kwh: 2, source_litres_per_kwh: 3, source: the operator}}
embodied: {{grams: 876600, lifetime_years: 1, share: 0.5, source: the maker}}
market: {{intensity: 10, unit: g/kWh, until: 2026-06-30, source: a contract}}
prices: {{currency: EUR, kwh: 0.2, machine_hour: 1}}
"""
FACTORS = (
    "region,intensity,unit,since,until,source\nFRA,50,g/kWh,2026-05-01,2026-06-01,n\nFRA,80,g/kWh,2026-06-02,{},n\n"
)


def band(low: float, central: float, high: float) -> Band:
    return Band(low=low, central=central, high=high)


def full(folder: Path, operator: str = "own", until: str = "") -> Basis:
    (folder / "factors.csv").write_text(FACTORS.format(until))
    (folder / "carbon.yaml").write_text(FILE.format(operator=operator).replace("operator, 2025", "operator"))
    return basis(folder / "carbon.yaml", None)


def used(start: datetime = NOON, kwh: float = 1.0, seconds: Seconds = HOUR) -> Used:
    return Used(start=start, seconds=seconds, kwh=band(kwh / 2, kwh, 2 * kwh))


def test_every_figure_by_hand(tmp_path: Path) -> None:
    found = emissions([used(), used(NOON + timedelta(days=1))], HOUR, full(tmp_path))
    assert found.kwh == band(1, 2, 4) and found.site_kwh == band(1.5, 3, 6)
    assert found.location_g == band(97.5, 195, 390), "(50 + 80) x 1.5, by the period in which it was used"
    assert found.market_g == band(15, 30, 60)
    assert found.water_site_litres == band(2, 4, 8) and found.water_source_litres == band(4.5, 9, 18)
    assert found.embodied_g is not None and math.isclose(found.embodied_g, 876600 / 8766 / 2)
    assert found.scope2_location_g == found.location_g and found.scope2_market_g == found.market_g
    assert found.scope3_location_g and found.scope3_location_g.low == found.scope3_location_g.high == found.embodied_g
    assert found.intensity_g_per_kwh == band(65, 65, 65) and found.uncovered_kwh is None and not found.why


def test_a_cloud_is_scope_3_as_a_whole(tmp_path: Path) -> None:
    found = emissions([used()], HOUR, full(tmp_path, "cloud"))
    assert found.scope2_location_g is None and found.scope2_market_g is None
    assert found.scope3_location_g and found.location_g and found.embodied_g is not None
    assert math.isclose(found.scope3_location_g.central, found.location_g.central + found.embodied_g)


def test_energy_across_midnight_is_split(tmp_path: Path) -> None:
    found = emissions([used(datetime(2026, 6, 1, 23, 15, tzinfo=UTC))], HOUR, full(tmp_path))
    assert found.location_g and math.isclose(found.location_g.central, (0.75 * 50 + 0.25 * 80) * 1.5)


def test_what_is_not_reported_is_null_and_says_so() -> None:
    found = emissions([used()], HOUR, Basis(grid=bundled("FRA")))
    missing = ("site_kwh", "market_g", "embodied_g", "water_site_litres", "water_source_litres", "scope2_location_g")
    assert all(getattr(found, name) is None for name in (*missing, "scope2_market_g", "scope3_location_g"))
    assert set(found.why) == {*missing[:5], "scopes"} and all("not reported" in text for text in found.why.values())
    assert found.location_g and math.isclose(found.location_g.central, bundled("FRA").periods[0].grams_per_kwh.central)
    nothing = emissions([], HOUR, Basis(grid=bundled("FRA")))
    assert nothing.location_g is None and nothing.kwh is None and nothing.why["kwh"] == "the energy was not measured"


def test_energy_that_no_factor_knows_makes_a_lower_bound(tmp_path: Path) -> None:
    late = used(datetime(2026, 8, 1, tzinfo=UTC), 5.0)
    found: Emissions = emissions([used(), late], HOUR, full(tmp_path, until="2026-07-31"))
    assert found.uncovered_kwh == late.kwh and found.location_g == band(37.5, 75, 150)
    assert "lower bound" in found.why["location_g"]
    assert found.market_g is None and "contract does not hold" in found.why["market_g"]


def served(seconds: float, wh: float | None, macs: int | None = None) -> Served:
    across = Across(median=seconds, least=0.9 * seconds, most=1.1 * seconds)
    window = Window(seconds=Seconds(seconds), inferences=1000, cpu_seconds=Seconds(seconds))
    energy = band(wh / 2, wh, 2 * wh) if wh is not None else None
    of_energy = Across(median=wh, least=wh, most=wh) if wh is not None else None
    return Served(
        windows=(window,) * 5, macs_per_inference=macs, cpu_seconds_per_1000=across, seconds_per_1000=across,
        wh_per_1000=energy, wh_per_1000_across=of_energy,
    )  # fmt: skip


def test_the_score_is_energy_times_intensity_plus_embodied(tmp_path: Path) -> None:
    given = full(tmp_path)
    found = sci(served(36.0, 2.0), "request", NOON, given)
    embodied = embodied_g(Seconds(36.0), given)
    assert found.e_kwh == band(0.0015, 0.003, 0.006) and found.i_g_per_kwh == band(50, 50, 50)
    assert embodied is not None and math.isclose(embodied, 876600 * 36 / (365.25 * 86400) * 0.5)
    assert found.m_g == embodied and found.r == "1,000 requests" and found.why is None
    assert found.sci_g and math.isclose(found.sci_g.central, 0.003 * 50 + embodied)
    without = sci(served(36.0, 2.0), "request", NOON, Basis(grid=bundled("FRA")))
    assert without.sci_g is None and without.operational_g and "embodied carbon is not reported" in str(without.why)
    assert sci(served(36.0, None), "request", NOON, given).sci_g is None


def test_break_even_and_its_curve_cross_zero_at_the_same_requests() -> None:
    cost, teacher, student = band(1, 2, 4), band(2, 4, 8), band(1, 2, 4)
    found = payback.break_even(cost, teacher, student).requests
    assert found == band(250, 1000, 4000)
    points = payback.curve(cost, teacher, student, 5000, 40)
    assert len(points) == 41 and points[0].net_kwh == band(-4, -2, -1) and points[-1].requests == 5000
    for end, other in (("low", "high"), ("central", "central"), ("high", "low")):
        crossed = next(one.requests for one in points if getattr(one.net_kwh, end) >= 0)
        assert 0 <= crossed - getattr(found, other) <= points[1].requests


def test_never_and_unknown() -> None:
    cost, big, small = band(1, 2, 4), band(2, 4, 8), band(1, 2, 4)
    never = payback.break_even(cost, small, big)
    assert never.requests is None and never.why.startswith("never")
    assert payback.break_even(cost, small, small).why.startswith("never")
    assert payback.break_even(None, big, small).why.startswith("unknown: the energy spent")
    assert payback.break_even(cost, None, small).why.startswith("unknown: the energy of an inference")
    crossing = payback.break_even(cost, band(2, 4, 5), band(1, 2, 6))
    assert crossing.requests is None and crossing.why.startswith("unknown: within its uncertainty")
    losing = payback.curve(cost, small, big, 5000, 40)
    assert losing and all(one.net_kwh.central < 0 for one in losing) and not payback.curve(cost, None, small, 5000, 40)


def test_money_counts_energy_and_hours(tmp_path: Path) -> None:
    serving = ServingEnergy(unit="request", teacher=served(36.0, 2.0), student=served(9.0, 0.5))
    found = payback.money(band(1, 2, 4), HOUR, serving, full(tmp_path))
    assert found.currency == "EUR" and found.spent and found.teacher_per_1000 and found.student_per_1000
    assert math.isclose(found.spent.central, 2 * 1.5 * 0.2 + 1.0)
    assert math.isclose(found.teacher_per_1000.central, 0.002 * 1.5 * 0.2 + 0.01)
    each = (found.teacher_per_1000.central - found.student_per_1000.central) / 1000
    assert found.payback.requests and math.isclose(found.payback.requests.central, found.spent.central / each)
    assert payback.money(band(1, 2, 4), HOUR, serving, Basis()).payback.why.startswith("not reported")


@pytest.mark.parametrize(
    ("seconds", "kept", "said"),
    [
        (15.0, 0.93, "is kept."),
        (5.0, 0.93, "is kept and surpassed."),
        (30.0, 0.99, "kept in quality, missed in compute: 1.5 times the 20 %"),
        (15.0, 0.8, "kept in compute, missed in quality by 10 %"),
        (30.0, 0.8, "missed in both"),
    ],
)
def test_the_promise_is_answered_with_our_figures(seconds: float, kept: float, said: str) -> None:
    student = served(seconds, seconds / 10, macs=12)
    serving = ServingEnergy(unit="request", teacher=served(100.0, 10.0, macs=100), student=student)
    text = payback.compute_sentence(serving, Interval(point=kept, low=kept - 0.01, high=kept + 0.01))
    assert said in text and "12 % of the multiply-adds" in text and "of the energy" in text
    assert f"{seconds:.3g} % of the CPU seconds" in text.replace(" %", " %") and "share of time" in text
    assert "not known" in payback.compute_sentence(None, None)
