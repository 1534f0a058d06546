"""What a report says is the same in every format, its parts add up, and its page stands in a browser."""

import csv
import io
import json
import re
from datetime import date
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from prometheus_client.parser import text_string_to_metric_families as families

from flows import journal as journals
from flows.reporting import formats, page, period, rounding
from flows.reporting.compose import compose
from flows.reporting.gather import gather
from flows.reporting.model import Report
from registry.carbon.inputs import basis
from registry.records import Band, Kwh, ShrinkError, Tier, spread
from tests import chromium
from tests.flows.test_report import EVALUATION, run

SCHEMA = Path(page.TEMPLATES) / "report.schema.json"
ODD = (0.0123456, 3.3333333, 1.1111111, 0.0700007, 2.0099)  # Wh, that no rounding leaves alone


def footprint(wh: float | None, share: float = 0.3, why: str | None = None) -> dict[str, Any]:
    """A footprint as the meter writes them; None is not measured."""
    if wh is None:
        return {"kwh": None, "seconds": 7.77, "tier": "unmeasured", "why": why}
    tiers: dict[str, Tier] = {"cpu": "modelled", "ram": "constant"}
    parts = {"cpu": wh * share / 1000, "ram": wh * (1 - share) / 1000}
    bands = {part: spread(Kwh(kwh), tiers[part]) for part, kwh in parts.items()}
    known = {part: {"tier": tiers[part], "kwh": band.model_dump()} for part, band in bands.items()}
    whole = {end: sum(getattr(band, end) for band in bands.values()) for end in ("low", "central", "high")}
    told = {"kwh": whole, "components": known, "cpu_kwh": parts["cpu"], "ram_kwh": parts["ram"]}
    return {**told, "seconds": 33.33, "tier": "cpu modelled, ram constant", "samples": "ab" * 32}


def stage(kind: str, spent: dict[str, Any], cached: bool = False) -> dict[str, Any]:
    return {
        "key": kind, "kind": kind, "method": None, "role": "student", "digest": "cd" * 32, "bytes": 5_000_000,
        "inputs": {}, "config": {}, "footprint": spent, "cpu_seconds": 1.0, "peak_rss_mb": 1.0,
        "started": "2026-10-01T00:00:00+00:00", "cached": cached,
    }  # fmt: skip


def kept(home: Path, name: str, **more: Any) -> dict[str, Any]:
    """A run's journal in a home."""
    run_id = f"20261001-000000-{name}"
    journal: dict[str, Any] = {"run_id": run_id, "recipe": "tiny", "recipe_digest": "0", "status": "passed"}
    journal |= {"pid": 1, "pid_created": 1.0}
    journal |= {"started": "2026-10-01T00:00:00+00:00", "stages": [], "version": None, "verdict": None, "error": None}
    (home / "runs" / run_id).mkdir(parents=True)
    journals.write(home / "runs" / run_id, journal | more)
    return journal | more


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Runs of every fate: passed, rejected with a re-used stage, failed and unmeasured, killed, a broken journal."""
    judged = {key: run()[key] for key in ("evaluation", "verdict", "digest")}
    made = [stage(f"stage{place}", footprint(wh)) for place, wh in enumerate(ODD)] + [stage("evaluate", footprint(0.9))]
    vain = {
        "stage": "02-stage2",
        "ended": "killed",
        "started": "2026-10-01T00:00:00+00:00",
        "footprint": {**footprint(0.31), "samples": "ef" * 32},
    }
    kept(tmp_path, "one-aaaa", stages=made, **judged, version="3", attempts=[vain], resumed=1)
    reused = [stage("stage1", footprint(ODD[1]), cached=True), stage("late", footprint(0.77), False)]
    november = "2026-11-05T10:00:00+00:00"
    kept(tmp_path, "two-bbbb", stages=reused, status="rejected", started=november)
    blind = [stage("blind", footprint(None, why="the meter did not open"))]
    kept(tmp_path, "three-cccc", stages=blind, status="failed", started=november)
    (tmp_path / "runs" / "20261101-000000-tiny-dddd").mkdir()
    (tmp_path / "runs" / "20261101-000000-tiny-dddd" / "run.json").write_text('{"run_id": ')
    return tmp_path


def markdown_table(text: str, title: str) -> tuple[list[list[str]], list[str]]:
    """Rows and total of a table of Markdown."""
    lines = text.split(f"## {title}\n\n")[1].split("\n\n")[0].splitlines()
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return rows[2:-1], rows[-1]


def test_totals_are_the_sum_of_their_parts_in_every_format(home: Path) -> None:
    report = compose(gather(home))
    told = json.loads(formats.json_text(report))
    total = told["energy"]["total"]["kwh"]
    expected = (sum(ODD) + 0.9 + 0.31 + 0.77) / 1000
    assert total["central"] == pytest.approx(expected, rel=1e-12)
    for bound in ("low", "central", "high"):
        for rows in (told["energy"]["stages"], told["energy"]["runs"], told["energy"]["components"]):
            assert sum(one["kwh"][bound] for one in rows if one["kwh"]) == pytest.approx(total[bound], rel=1e-12)
        traced = [one for each in told["trace"] for one in each["stages"] if one["counted"] and one["kwh"]]
        assert sum(one["kwh"][bound] for one in traced) == pytest.approx(total[bound], rel=1e-12)
    rows = list(csv.DictReader(io.StringIO(formats.csv_text(report))))
    for section in ("component", "stage", "run", "trace"):
        parts = [one for one in rows if (one["section"], one["quantity"], one["bound"]) == (section, "energy", "high")]
        assert sum(float(one["value"]) for one in parts if one["value"]) == pytest.approx(total["high"], rel=1e-12)
    text, web = formats.markdown(report), page.html(report)
    for title in ("Energy per component", "Energy per stage", "Energy per run"):
        shown, foot = markdown_table(text, title)
        for column in range(-4, -1):  # low, central, high: to the last shown digit
            cells = [row[column] for row in shown if row[column] != "not measured"]
            digits = len(foot[column].partition(".")[2])
            assert round(sum(map(float, cells)), digits) == float(foot[column]), (title, column)
        table = web.split(f"<h2>{title}</h2>")[1].split("</table>")[0]
        bodies = [re.sub(r"<[^>]+>", "", cell) for cell in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", table)]
        assert bodies[-len(foot) :] == foot and bodies[len(foot) : len(foot) * 2] == shown[0]
    gauges = {
        (one.name, *sorted(one.labels.items())): one.value
        for family in families(formats.prometheus(report))
        for one in family.samples
    }
    assert gauges["shrink_report_energy_kwh", ("bound", "central"), ("model", "")] == pytest.approx(total["central"])
    assert gauges["shrink_report_count", ("model", ""), ("what", "unmeasured")] == 1


def test_what_is_counted_and_what_is_not(home: Path) -> None:
    report = compose(gather(home))
    counts = report.counts
    assert (counts.runs, counts.passed, counts.rejected, counts.failed, counts.resumed) == (3, 1, 1, 1, 1)
    assert (counts.executions, counts.cached, counts.cut_off, counts.unmeasured, counts.unreadable) == (9, 1, 1, 1, 1)
    assert report.unreadable == ("20261101-000000-tiny-dddd",)
    assert report.energy.unmeasured == {"the meter did not open": 1}
    blind = next(one for one in report.energy.stages if one.name == "blind")
    assert blind.kwh is None and blind.executions == 1
    assert "stage2 (killed)" in [one.name for one in report.energy.stages]
    assert any("RAM" in line or "memory" in line for line in report.limits) and "No RAPL" in report.limits[0]
    assert any("1 executions are unmeasured: the meter did not open (1)" in line for line in report.actions)
    assert "blind | 1 | 7.8 | not measured | not measured | not measured" in formats.markdown(report)


def test_months_add_up_to_the_whole_and_tell_what_was_re_used(home: Path) -> None:
    whole = compose(gather(home)).energy.total.kwh
    october, november = (
        compose(gather(home, asked=period.period(f"{month}-01", f"{month}-30", date(2026, 12, 1))))
        for month in ("2026-10", "2026-11")
    )
    assert whole and october.energy.total.kwh and november.energy.total.kwh and november.energy.reused_kwh
    assert october.energy.total.kwh.high + november.energy.total.kwh.high == pytest.approx(whole.high, rel=1e-12)
    assert november.energy.total.kwh.central == pytest.approx(0.77e-3)
    assert november.energy.reused_kwh.central == pytest.approx(ODD[1] / 1000)
    assert october.energy.reused_kwh is None and "adds nothing here" in " ".join(november.boundary)


def test_the_published_schema_is_that_of_the_reports(home: Path) -> None:
    published = json.loads(SCHEMA.read_text(encoding="utf-8"))
    assert published == formats.schema(), "write flows/templates/report.schema.json anew: formats.schema()"
    report = compose(gather(home), basis(None, "FRA"))
    told = json.loads(formats.json_text(report))
    jsonschema.validate(told, published)
    assert Report.model_validate_json(formats.json_text(report)) == report
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(told | {"energy": None}, published)

    def keys(value: Any) -> set[str]:
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return (set(value) if isinstance(value, dict) else set()).union(*map(keys, inner))

    asked = {
        "tier",
        "low",
        "central",
        "high",
        "sci",
        "break_even",
        "pue",
        "boundary",
        "limits",
        "intensity",
        "unmeasured",
    }
    assert asked <= keys(told)


def test_the_same_runs_give_the_same_bytes(home: Path) -> None:
    for write in (formats.json_text, formats.csv_text, formats.markdown, formats.prometheus, page.html):
        assert write(compose(gather(home), basis(None, "FRA"))) == write(compose(gather(home), basis(None, "FRA")))


@pytest.mark.parametrize(
    ("since", "until", "said"),
    [
        ("2026-11-02", "2026-11-01", "--since 2026-11-02 is after --until 2026-11-01; swap them."),
        ("soon", None, "--since is 'soon' but must be a date like 2026-11-01, or days back like 30d."),
        (None, "2026-02-30", "--until is '2026-02-30' but must be"),
        ("99999999d", None, "--since is '99999999d' but must"),
    ],
)
def test_a_period_that_is_none_is_refused(since: str | None, until: str | None, said: str) -> None:
    with pytest.raises(ShrinkError) as refusal:
        period.period(since, until, date(2026, 12, 1))
    assert said in str(refusal.value)


def test_a_period_without_runs_names_those_that_have_some(home: Path) -> None:
    asked = period.period("2025-01-01", "2025-12-31", date(2026, 12, 1))
    with pytest.raises(ShrinkError) as refusal:
        gather(home, asked=asked)
    assert str(refusal.value) == "no run began from 2025-01-01 to 2025-12-31; there are runs in 2026-10, 2026-11."
    assert period.last_month(date(2026, 1, 31)) == period.Period(since=date(2025, 12, 1), until=date(2025, 12, 31))
    assert period.period("30d", None, date(2026, 12, 1)).since == date(2026, 11, 1)
    assert period.Period(until=date(2026, 11, 1)).holds("2026-11-01T23:59:59+00:00")
    assert not period.Period(until=date(2026, 11, 1)).holds("2026-11-01T23:30:00-01:00")  # already the next day in UTC


@pytest.mark.parametrize(
    ("kwh", "said"),
    [
        (0.0078, "7.8 Wh"),
        (0.000999, "1.0 Wh"),
        (7.3e-7, "730 µWh"),
        (2e-6, "2.0 mWh"),
        (None, "not measured"),
        (0.0996, "100 Wh"),
    ],
)
def test_two_digits_in_the_unit_that_fits(kwh: float | None, said: str) -> None:
    assert rounding.energy(kwh) == said


def test_shown_parts_add_up_and_lie_within_a_digit_of_their_own_rounding() -> None:
    parts = [1 / 3, 1 / 3, 1 / 3, None, 0.005, 12.0049]
    shown, total = rounding.column(parts, 2)
    assert shown[3] is None and total == "13.01"
    known = [
        (float(cell), part) for cell, part in zip(shown, parts, strict=True) if cell is not None and part is not None
    ]
    assert round(sum(cell for cell, _ in known), 2) == 13.01
    assert all(abs(cell - part) < 0.01 for cell, part in known)


def test_a_green_start_is_told_with_its_band(tmp_path: Path) -> None:
    one = {"low": 1.0, "central": 2.0, "high": 4.0}
    told = {
        "asked": "2026-10-01T00:00:00+00:00", "within": "12h", "profile": "a day", "candidates": 12, "why": "least",
        "at_once_grams_per_kwh": 400.0, "chosen_grams_per_kwh": 200.0, "chosen": "2026-10-01T05:00:00+00:00",
        "waited_seconds": 18000.0, "were_grams": one, "would_have_been_grams": {end: 2 * one[end] for end in one},
        "saved_grams": one,
    }  # fmt: skip
    kept(tmp_path, "one-aaaa", stages=[stage("evaluate", footprint(1.0))], carbon_start=told)
    (said,) = [line for line in compose(gather(tmp_path)).benefit.said if "green start" in line]
    assert said.startswith("20261001-000000-one-aaaa, green start: begun 5.00 h after") and "saved" in said


def test_many_runs_are_told_by_recipe_and_the_page_stays_short(tmp_path: Path) -> None:
    for number in range(60):
        kept(tmp_path, f"run-{number:04x}", stages=[stage("evaluate", footprint(1.01))])
    report = compose(gather(tmp_path))
    shown, foot = markdown_table(formats.markdown(report), "Energy per run")
    assert [row[0] for row in shown] == ["tiny, passed: 60 runs"] and foot[-3] == shown[0][-3]
    assert len(report.trace) == 60 and "<details" not in page.html(report)


def test_data_is_no_markup_and_no_formula(tmp_path: Path) -> None:
    hostile = "=cmd|' /C calc'!A0<script>alert(1)</script>"
    kept(tmp_path, "one-aaaa", recipe=hostile, stages=[stage(hostile, footprint(1.0))])
    report = compose(gather(tmp_path))
    assert "<script" not in page.html(report) and "<script" not in formats.markdown(report)
    cells = [cell for row in csv.reader(io.StringIO(formats.csv_text(report))) for cell in row]
    assert not [cell for cell in cells if cell[:1] == "="]


@pytest.mark.skipif(chromium.found() is None, reason="no Chromium here")
def test_the_page_in_a_browser_wide_narrow_and_printed(home: Path, tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    target.write_text(page.html(compose(gather(home), basis(None, "FRA"))), encoding="utf-8")
    with chromium.opened(target.as_uri(), tmp_path / "profile") as tab:
        tab.until("document.readyState === 'complete'")
        for width in (1280, 390):
            tab.picture(tmp_path / f"{width}.png", width, 900, dark=width == 390)
            assert tab.value("document.documentElement.scrollWidth") <= width, width
            above = "document.querySelector('.figures').getBoundingClientRect().bottom < 900"
            assert tab.value(f"{above} && document.querySelectorAll('.figure').length") == 3
            assert tab.value("document.querySelector('svg').getBoundingClientRect().bottom") < 900
        printed = tab.call("Page.printToPDF", printBackground=True)["data"]
        assert len(printed) > 10_000
        assert tab.said() == []
        assert tab.asked()[:1] == [target.as_uri()] and not [one for one in tab.asked() if one.startswith("http")]


def test_a_band_of_the_curve_crosses_zero_at_the_break_even(home: Path) -> None:
    benefit = compose(gather(home)).benefit
    assert benefit.break_even and benefit.curve
    assert EVALUATION["student"] and isinstance(benefit.cost_kwh, Band)
    before = [one for one in benefit.curve if one.requests < benefit.break_even.central * 0.999]
    assert all(one.central < 0 for one in before) and benefit.curve[-1].central > 0
