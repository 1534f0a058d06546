"""The auditor finds what is wrong, and energy goes to the day on which it was drawn, by samples across midnight.

On runs of the real recipe, a killed and resumed one too, it is let loose in test_compress.py.
"""

import json
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flows import journal as journals
from registry.records import Kwh, Part, Seconds, Tier
from tasks.meter import samples
from tasks.meter.summing import Slice, Span, footprint_of
from tests.flows.audited import HEAD, audited, reported
from tests.flows.test_report import stage

TIERS: dict[Part, Tier] = {"cpu": "modelled", "ram": "constant"}
LATE = datetime(2025, 12, 31, 23, 59, 40, tzinfo=UTC)
ROWS = "FRA,50,g/kWh,2025-01-01,2025-12-31,n\nFRA,80,g/kWh,2026-01-01,,n\n"
RUN = "20251231-235940-tiny-aaaa"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A run with one stage in three samples of 15 s, the second of which lies across the year's end; one is shared."""
    folder = tmp_path / "home" / "runs" / RUN
    folder.mkdir(parents=True)
    begin = {"event": "begin", "stage": "00-distill", "attempt": "a", "at": LATE.isoformat(), "monotonic": 100.0}
    lines, slices = [json.dumps({"schema": samples.SCHEMA, **begin})], list[Slice]()
    for place, wh in enumerate((1.0, 2.0, 4.0, 8.0)):
        kwh: dict[Part, Kwh] = {"cpu": Kwh(wh / 4000), "ram": Kwh(3 * wh / 4000)}
        monotonic = 115.0 + 15 * place
        slices.append(Slice(seconds=Seconds(15), monotonic=monotonic, tiers=TIERS, kwh=kwh))
        if place == 3:
            slices[-1] = slices[-1].model_copy(update={"shared": "another run"})
        read = slices[-1].model_dump(mode="json", exclude_none=True)
        stamp = {"schema": samples.SCHEMA, "at": "1999-01-01T00:00:00+00:00"}  # a wall clock that was set back
        lines.append(json.dumps({**stamp, "event": "slice", "attempt": "a", "stage": "00-distill", "slice": read}))
    (folder / "samples.jsonl").write_text("\n".join(lines) + "\n" + '{"schema": 1, "eve')
    spent = footprint_of(slices, Span(100.0, 160.0, 15.0), samples=samples.digest(lines[1:]))
    record: dict[str, Any] = stage("distill", 1.0) | {"started": LATE.isoformat()}
    record |= {"footprint": spent.model_dump(mode="json")}
    journal = {"run_id": RUN, "recipe": "tiny", "recipe_digest": "0", "status": "passed", "pid": 1, "pid_created": 1.0}
    empty = {"version": None, "verdict": None, "error": None, "evaluation": None}
    journals.write(folder, {**journal, **empty, "started": LATE.isoformat(), "stages": [record], "attempts": []})
    return tmp_path / "home"


def test_energy_goes_to_the_day_on_which_it_was_drawn(home: Path, tmp_path: Path) -> None:
    seen = reported(home, tmp_path, "both", ROWS)["emissions"]
    by_hand = 1.4 * (0.001 * 50 + 0.002 * (5 * 50 + 10 * 80) / 15 + 0.004 * 80)
    assert math.isclose(seen["location_g"]["central"], by_hand)
    assert seen["by_run_g"] == {RUN: seen["location_g"]} and list(seen["by_stage_g"]) == ["distill"]
    said = audited(tmp_path / "both.json", home, tmp_path / "both.csv")
    assert said.returncode == 0, said.stdout


def test_energy_of_a_time_that_the_factors_do_not_know_is_named(home: Path, tmp_path: Path) -> None:
    facts = reported(home, tmp_path, "short", ROWS.splitlines()[0] + "\n")
    assert math.isclose(facts["emissions"]["uncovered_kwh"]["central"], 0.006), "a sample across the end is not known"
    assert any(line.startswith("CO2e is a lower bound") for line in facts["limits"])
    assert "lower bound" in facts["figures"][1]["says"]


def test_the_auditor_finds_what_is_wrong(home: Path, tmp_path: Path) -> None:
    facts = reported(home, tmp_path, "both", ROWS)
    report, factors = tmp_path / "both.json", tmp_path / "both.csv"

    def says(wrong: Any) -> str:
        report.write_text(json.dumps(wrong))
        said = audited(report, home, factors)
        assert said.returncode == 1, said.stdout
        return said.stdout

    for place in (("energy", "total", "kwh", "high"), ("emissions", "location_g", "low")):
        wrong = json.loads(json.dumps(facts))
        inside = wrong
        for key in place[:-1]:
            inside = inside[key]
        inside[place[-1]] *= 1 + 1e-5
        assert "the report says" in says(wrong)
    hidden = json.loads(json.dumps(facts))
    hidden["trace"][0]["stages"] = []
    assert "are of no stage in the report" in says(hidden)
    report.write_text(json.dumps(facts))
    other = tmp_path / "other.csv"
    other.write_text(HEAD + ROWS.replace("80", "81"))
    assert audited(report, home, other).returncode == 1, "by other factors"
    kept = home / "runs" / RUN / "samples.jsonl"
    kept.write_text(kept.read_text().replace("0.00025", "0.00026"))
    assert "are missing" in says(facts), "a sample was edited"
    assert LATE + timedelta(seconds=20) == datetime(2026, 1, 1, tzinfo=UTC)
