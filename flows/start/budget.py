"""`--max-kwh` and `--max-minutes`: a run stops at a stage's boundary before it takes more than it may.

What counts is all that the run has taken in its folder, attempts that were killed included: energy as it was metered
(the central estimate, before PUE), time while it was at work, waiting for a green hour not. Before a stage is computed
what is foretold of it is added; one that would go over is not begun. What is re-used costs nothing.
"""

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import BaseModel, Field

from flows import units
from flows.planned import Plan
from flows.start import taken
from registry.records import STRICT, Kwh, ShrinkError

if TYPE_CHECKING:  # it imports Prefect, whose address the command has yet to set
    from flows.obtain import Workshop


class Budget(BaseModel):
    """The most that a run may take; null: as much as it needs."""

    model_config = STRICT
    max_kwh: float | None = Field(default=None, gt=0, allow_inf_nan=False, description="energy in kWh, before PUE")
    max_minutes: float | None = Field(default=None, gt=0, allow_inf_nan=False, description="minutes at work")


NONE = Budget()


class OverBudget(RuntimeError):
    """The next stage would take a run over its budget; what it has finished stays, and `shrink resume` goes on."""


class Spent(NamedTuple):
    """What a run has taken so far."""

    kwh: Kwh | None  # None: some of it was not measured
    seconds: float


def given(max_kwh: float | None, max_minutes: float | None) -> Budget:
    """The budget of these options; raises ShrinkError for what is no amount."""
    for option, value in (("--max-kwh", max_kwh), ("--max-minutes", max_minutes)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ShrinkError(f"{option} is {value:g} but must be a number above 0; give the most that may be taken.")
    return Budget(max_kwh=max_kwh, max_minutes=max_minutes)


def renewed(journal: dict[str, Any], changed: Budget) -> Budget:
    """A run's budget when it goes on: its own with what is changed; raises ShrinkError for the one that stopped it."""
    kept = Budget.model_validate(journal.get("budget") or {})
    if journal["status"] == "stopped" and changed == NONE:
        limits = {"--max-kwh": kept.max_kwh, "--max-minutes": kept.max_minutes}
        had = " and ".join(f"{option} {value:g}" for option, value in limits.items() if value is not None)
        raise ShrinkError(f"run '{journal['run_id']}' was stopped by {had}; give it more, by the same option.")
    return kept.model_copy(update=changed.model_dump(exclude_none=True))


def foretold(budget: Budget, plan: Plan) -> str:
    """What a plan says of a budget that it does not fit into, before the run begins; empty where it fits."""
    kwh, seconds = plan.total("kwh").central, plan.total("seconds").central
    over = []
    if budget.max_kwh is not None and kwh > budget.max_kwh:
        over.append(f"{units.energy(kwh)}, more than --max-kwh {budget.max_kwh:g}")
    if budget.max_minutes is not None and seconds > 60 * budget.max_minutes:
        over.append(f"{units.duration(seconds)}, more than --max-minutes {budget.max_minutes:g}")
    if not over:
        return ""
    return f"foretold are {' and '.join(over)}: the run will stop before the stage that would go over"


def guard(budget: Budget, shop: "Workshop", plan: Plan) -> Callable[[str], None]:
    """What a run, which begins now or goes on, asks with the name of each stage that it is about to compute."""
    began, earlier = time.monotonic(), taken.seconds(shop.directory)
    stages = {stage.name: stage for stage in plan.stages}

    def allow(name: str) -> None:
        kwh: Kwh | None = Kwh(0.0)
        if budget.max_kwh is not None:
            kwh = None if shop.meter.result().tracker is None else taken.kwh(shop.directory)
        spent = Spent(kwh, earlier + time.monotonic() - began)
        stage = stages.get(name)
        check(budget, name, spent, *((stage.kwh.central, stage.seconds.central) if stage else (0.0, 0.0)))

    return allow


def check(budget: Budget, name: str, spent: Spent, kwh: float, seconds: float) -> None:
    """Raise OverBudget where a stage that is foretold to take so much more would go over; unmeasured energy does."""
    if budget.max_kwh is not None:
        if spent.kwh is None:
            raise OverBudget(
                f"stopped before {name}: energy could not be measured, so that --max-kwh {budget.max_kwh:g} cannot be "
                "kept; use --max-minutes"
            )
        if spent.kwh + kwh > budget.max_kwh:
            raise OverBudget(
                f"stopped before {name}: {units.energy(spent.kwh)} spent and {units.energy(kwh)} foretold for it, "
                f"over the budget of {budget.max_kwh:g} kWh"
            )
    if budget.max_minutes is not None and spent.seconds + seconds > 60 * budget.max_minutes:
        raise OverBudget(
            f"stopped before {name}: {units.duration(spent.seconds)} spent and {units.duration(seconds)} foretold for "
            f"it, over the budget of {budget.max_minutes:g} minutes"
        )
