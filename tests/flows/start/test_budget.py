"""Budgets of energy and time: bad ones are refused, a run stops before the stage that would go over, and goes on."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.start import budget as budgets
from flows.start import taken
from flows.start.budget import Budget, OverBudget, Spent
from infra.addresses import Services
from registry import runs
from registry.records import Kwh, ShrinkError
from tasks.meter import samples
from tests.flows.test_compress import shrink

STEP = "05-distill-logits"  # so long in the recipe below that no budget of the test is enough


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


def test_a_run_over_its_budget_stops_at_a_boundary_and_goes_on(
    servers: Services, servers_home: Path, tiny: Path, tmp_path: Path
) -> None:
    content = yaml.safe_load((tiny / "tiny.yaml").read_text()) | {"name": "tiny-budget", "seed": 11}
    content["stages"][3]["epochs"] = 1_000_000  # most of an hour
    (tmp_path / "long.yaml").write_text(yaml.safe_dump(content))
    stopped = shrink(servers_home, "run", str(tmp_path / "long.yaml"), "--max-minutes", "5", "--json", check=1)
    told = json.loads(stopped.stdout)
    assert f"stopped before {STEP}: " in told["error"] and "over the budget of 5 minutes" in told["error"]
    assert "the run will stop before the stage that would go over" in stopped.stderr, "foretold"
    directory = servers_home / "runs" / told["run"]
    journal = json.loads((directory / "run.json").read_text())
    assert journal["status"] == "stopped" and len(journal["stages"]) == 5 and not (directory / STEP).exists()
    assert journal["error"] in told["error"]
    assert runs.connect(servers.mlflow_uri).get_run(journal["mlflow_run_id"]).info.status == "KILLED"
    assert state_of(journal["prefect_run_id"]) == ("CANCELLED", "OverBudget")
    assert "was stopped by --max-minutes 5" in shrink(servers_home, "resume", told["run"], check=2).stderr
    again = shrink(servers_home, "resume", told["run"], "--max-minutes", "1e9", "--max-kwh", "1e-6", check=1).stderr
    assert f"stopped before {STEP}: " in again and "over the budget of 1e-06 kWh" in again
    journal = json.loads((directory / "run.json").read_text())
    assert journal["resumed"] == 1 and all(stage["cached"] for stage in journal["stages"])
    assert journal["budget"] == {"max_kwh": 1e-6, "max_minutes": 1e9}


def state_of(flow_run: str) -> tuple[str, str]:
    """Type and name of the state that a run has in Prefect."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        state = client.read_flow_run(flow_run).state  # type: ignore[arg-type]
    assert state is not None
    return state.type.value, state.name or ""
