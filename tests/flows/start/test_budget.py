"""Budgets of energy and time: bad ones are refused, a run stops before the stage that would go over, and goes on."""

from pathlib import Path
from typing import Any

import pytest

from flows.start import budget as budgets
from flows.start import taken
from flows.start.budget import Budget, OverBudget, Spent
from registry.records import Kwh, ShrinkError
from tasks.meter import samples

STEP = "05-distill-logits"  # the stage that is about to be computed


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("option", ["max_kwh", "max_minutes"])
def test_what_is_no_amount_is_refused(option: str, value: float) -> None:
    with pytest.raises(ShrinkError, match=f"--{option.replace('_', '-')} is .* must be a number above 0; give"):
        budgets.given(**{"max_kwh": None, "max_minutes": None, option: value})


@pytest.mark.parametrize(
    ("spent", "kwh", "seconds", "said"),
    [
        (Spent(Kwh(0.5), 60), 0.4, 50, None),
        (Spent(Kwh(0.5), 60), 0.6, 50, "0.500 kWh spent and 0.600 kWh foretold for it, over the budget of 1 kWh"),
        (Spent(Kwh(1.1), 60), 0.0, 0, "over the budget of 1 kWh"),
        (Spent(Kwh(0.0), 100), 0.0, 21, "100 s spent and 21.0 s foretold for it, over the budget of 2 minutes"),
        (Spent(None, 0), 0.0, 0, "could not be measured.*use --max-minutes"),
    ],
)
def test_the_stage_that_would_go_over_is_not_begun(spent: Spent, kwh: float, seconds: float, said: str | None) -> None:
    budget = Budget(max_kwh=1, max_minutes=2)
    if said is None:
        budgets.check(budget, STEP, spent, kwh, seconds)
        return
    with pytest.raises(OverBudget, match=f"stopped before {STEP}: .*{said}"):
        budgets.check(budget, STEP, spent, kwh, seconds)


def test_energy_that_is_not_measured_does_not_matter_to_a_budget_of_time() -> None:
    budgets.check(Budget(max_minutes=2), STEP, Spent(None, 60), 1e9, 59)


def sampled(path: Path, *slices: dict[str, Any], ended: bool) -> None:
    """Samples of one go at a stage, as the meter writes them; the last line is one that a kill cut off."""
    tiers = {"cpu": "modelled", "ram": "constant"}
    header = {"tiers": tiers, "method": {}, "bands": {}, "machine": {}, "slice_seconds": 15.0}
    go = {"stage": "00-data", "attempt": "a"}
    text = [samples.line("open", header=header), samples.line("begin", **go, monotonic=0.0)]
    for number, one in enumerate(slices, 1):
        read = {"seconds": 15.0, "monotonic": 15.0 * number, "tiers": tiers} | one
        text.append(samples.line("slice", **go, slice=read))
    text += [samples.line("end", **go, monotonic=30.0, outcome="finished")] if ended else []
    path.write_text("\n".join([*text, text[-1][:40]]))


def test_a_killed_stage_has_been_spent(tmp_path: Path) -> None:
    path, read = tmp_path / "samples.jsonl", {"kwh": {"cpu": 1e-4, "ram": 5e-5}}
    sampled(path, read, read, ended=True)
    assert taken.kwh(tmp_path) == pytest.approx(3e-4) and taken.seconds(tmp_path) == 30
    sampled(path, read, read, ended=False)
    assert taken.kwh(tmp_path) == pytest.approx(4.5e-4), "and a sample more, which nobody saw"
    sampled(path, read, read | {"shared": "run x"}, ended=True)
    assert taken.kwh(tmp_path) == pytest.approx(1.5e-4), "the other run counts it"
    sampled(path, read, {"kwh": None, "why": "dead"}, ended=True)
    assert taken.kwh(tmp_path) is None, "never 0"


@pytest.mark.parametrize(
    ("status", "given", "left"),
    [
        ("stopped", {"max_kwh": 2.0}, {"max_kwh": 2.0, "max_minutes": 5.0}),
        ("crashed", {}, {"max_kwh": 1.0, "max_minutes": 5.0}),
        ("stopped", {}, None),
    ],
)
def test_a_run_that_goes_on_keeps_its_budget(status: str, given: dict[str, Any], left: dict[str, float] | None) -> None:
    journal = {"run_id": "r1", "status": status, "budget": {"max_kwh": 1.0, "max_minutes": 5.0}}
    if left is None:
        with pytest.raises(ShrinkError, match="was stopped by --max-kwh 1 and --max-minutes 5; give it more"):
            budgets.renewed(journal, Budget(**given))
        return
    assert budgets.renewed(journal, Budget(**given)).model_dump() == left
