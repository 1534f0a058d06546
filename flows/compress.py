"""THE flow: source → data → the recipe's stages → evaluate → gate → register → admit → promote.

Run it with `shrink run RECIPE`, or as the deployment in infra/prefect.yaml. Finished stages come from the index;
a failed gate is a result (the version is registered as rejected), a broken run raises and can be resumed.
"""

import contextlib
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import prefect.runtime
from prefect import flow, tags
from prefect.client.schemas.objects import FlowRun, State
from prefect.context import TagsContext
from prefect.exceptions import CancelledRun, TerminationSignal
from prefect.flow_engine import run_flow
from prefect.states import Cancelled

from flows import (
    admit,
    keys,
    outcome,
    pictures,
    plan,
    planned,
    promote,
    reconcile,
    registered,
    reigning,
    servers,
    sources,
)
from flows import journal as journals
from flows.obtain import Workshop, attempts, obtain
from flows.preflight import preflight
from flows.recipe import Recipe, load
from flows.settings import settings
from flows.smoke import layers_of
from flows.smoke import smoke as smoke_of
from flows.start import budget as budgets
from flows.start import saved
from flows.steps import source_of, steps_of
from flows.trouble import explained
from registry import gate, store
from registry.patience import patiently
from registry.records import Evaluation, ShrinkError
from tasks import carbon
from tasks.discreet import hushing, told
from tasks.teachers import MAIN

log = logging.getLogger("flows.compress")
OURS = ("flows", "tasks", "registry")  # loggers whose lines go to Prefect


@flow(name=reconcile.FLOW, flow_run_name="{recipe}", persist_result=False, log_prints=False)
def compress(
    recipe: str, smoke: bool = False, max_kwh: float | None = None, max_minutes: float | None = None
) -> dict[str, Any] | State[Any]:
    """Compress by a shipped recipe's name or a recipe file; returns the run's journal.

    Cache: registry/index, per stage. Secrets: S3 credentials from .shrink/credentials.json.
    Raises ShrinkError for what the user can mend, RuntimeError for a stage that broke. A run that stops by its budget
    is cancelled, in the state OverBudget.
    """
    for name in OURS:
        logging.getLogger(name).setLevel(logging.INFO)
    here, budget = settings(), budgets.given(max_kwh, max_minutes)
    keys.ready(here)
    chosen = registered.pinned(load(recipe), here.home)
    teacher, data = sources.resolve(chosen.teacher, here.home), sources.resolve(chosen.data_source, here.home)
    others = {name: sources.resolve(source, here.home) for name, source in chosen.more.items()}
    with hushing():  # from here on users' rows are read, and Prefect keeps what is raised
        try:
            return walked(chosen, {MAIN: teacher, **others, "data": data}, smoke, budget)
        except budgets.OverBudget as error:
            return Cancelled(name="OverBudget", message=f"{error}")


def walked(chosen: Recipe, origins: dict[str, Path], smoke: bool, budget: budgets.Budget) -> dict[str, Any]:
    """The flow, from the recipe and the directories of its teachers and data by their names; returns the journal."""
    here, teacher, data = settings(), origins[MAIN], origins["data"]
    others = {name: path for name, path in origins.items() if name not in {MAIN, "data"}}
    if smoke:
        chosen = smoke_of(chosen, layers_of(chosen, teacher, others))
    preflight(chosen, teacher, data, others)
    foretold = plan.make(chosen, teacher, data, here, others)
    plan.refuse(foretold, here)
    untagged = TagsContext(current_tags=set())  # Prefect asks its server about each tag of a task: 0.7 s a stage
    with untagged, opened(chosen) as (shop, journal):
        planned.write(shop.directory, foretold)
        journal["budget"], shop.allow = budget.model_dump(), budgets.guard(budget, shop, foretold)
        found = chain(shop, chosen, origins)
        rival = patiently(reigning.inputs, shop, chosen, found["student"])
        evaluated = obtain(shop, chosen.evaluate, "evaluation", {**found, **rival})
        evaluation = Evaluation.model_validate(shop.records[-1].measured)
        verdict = gate.judge(chosen.gate, evaluation, reigning.digest(shop, rival))
        judged = (evaluation, verdict, found["student"], evaluated)
        version = patiently(outcome.register, shop, chosen, journal, *judged)
        if verdict.passed:
            admission = patiently(admit.admitted, chosen.name, version, shop)
            journal["refused"] = admission.why
            if admission.passed:
                patiently(promote.of_run, shop, chosen.name, version, journal)
            else:
                patiently(promote.reconcile, chosen.name)  # what was refused is no challenger
        patiently(pictures.publish, shop, chosen.name, evaluation, verdict)
        journal["status"] = "passed" if verdict.passed and not journal["refused"] else "rejected"
    return journal


def start(
    recipe: str, smoke: bool = False, budget: budgets.Budget = budgets.NONE, flow_run: FlowRun | None = None
) -> dict[str, Any]:
    """Run the flow in this process, its Prefect run tagged with the process from the very beginning.

    `flow_run` is the one that was scheduled for it. Raises OverBudget where the budget stops it.
    """
    parameters = {"recipe": recipe, "smoke": smoke, **budget.model_dump()}
    try:
        with tags(journals.process_tag()):
            journal: Any = run_flow(compress, flow_run=flow_run, parameters=parameters)
            return dict(journal)
    except CancelledRun as error:  # the flow's own word, by nothing else
        raise budgets.OverBudget(f"{error}") from None
    except ShrinkError as error:
        raise ShrinkError(told(error)) from None
    except Exception as error:
        raise RuntimeError(explained(settings().home, error)) from error


def chain(shop: Workshop, recipe: Recipe, origins: dict[str, Path]) -> dict[str, Path]:
    """Run data, floor and the recipe's stages; returns the deployables by role (teacher, student, floor, data).

    `origins` are the directories of teachers and data by their names.
    """
    made = {source_of(what): path for what, path in origins.items()}
    steps, judged = steps_of(recipe)
    for step in steps:
        made[step.name] = obtain(shop, step.config, step.role, {role: made[at] for role, at in step.inputs.items()})
    return {role: made[name] for role, name in judged.items()}


@contextlib.contextmanager
def opened(recipe: Recipe) -> Iterator[tuple[Workshop, dict[str, Any]]]:
    """The run's directory, journal and MLflow run; the journal ends with the run, however it ends."""
    here = settings()
    services = servers.services(here.home)
    flow_run = prefect.runtime.flow_run.id
    with journals.lock(here.home):
        reconcile.reconcile(here.home)
        journal = journals.begin(here.home, recipe, flow_run)
    directory = here.home / "runs" / str(journal["run_id"])
    s3 = store.connect(servers.s3_config(services))
    aside = ThreadPoolExecutor(1)  # the meter takes two seconds to open, most of them asleep
    samples = directory / "samples.jsonl"
    meter = aside.submit(carbon.open_meter, here.country, samples, home=here.home, lock=here.meter_slot)
    if not (here.home / carbon.IDLE).is_file():
        meter.result()  # once on a machine: its idle draw is measured, and this process sleeps meanwhile
    shop = Workshop(here, s3, services.bucket, directory, recipe.seed, meter)
    try:
        pictures.rename(flow_run, recipe.name, str(journal["run_id"]))
        store.ensure_bucket(shop.s3, services.bucket)
        outcome.open_tracking(recipe, journal)
        journals.write(directory, journal)
        yield shop, journal
    except BaseException as error:
        cancelled = isinstance(error, KeyboardInterrupt | TerminationSignal)  # Ctrl-C, or SIGTERM as Prefect has it
        stopped = "stopped" if isinstance(error, budgets.OverBudget) else "failed"
        journal["status"], journal["error"] = "cancelled" if cancelled else stopped, explained(here.home, error)
        raise
    finally:
        aside.shutdown(wait=False)
        journal["stages"] = [record.model_dump(mode="json") for record in shop.records]
        journal["attempts"] = [one.model_dump(mode="json") for one in attempts(shop)]
        journal["carbon_start"] = saved.told(directory, attempts(shop))
        close(shop, journal, directory)


def close(shop: Workshop, journal: dict[str, Any], directory: Path) -> None:
    """End the MLflow run, then write the journal: a run is finished only once both say so."""
    finished = journal["status"] in {"passed", "rejected"}
    try:
        if finished:
            patiently(outcome.close_tracking, shop, journal)
        else:  # perhaps because of that very server
            outcome.close_tracking(shop, journal)
        journal["mlflow_ended"] = True
    except Exception as error:
        journal["mlflow_ended"] = False
        if finished:
            journal["status"], journal["error"] = "failed", f"{error}"
            raise
        log.warning("the MLflow run could not be ended (%s); the next run does it", error)
    finally:
        try:
            journals.write(directory, journal)
        except OSError as error:  # the disk that stopped the run; its journal then says that its process is gone
            if finished:
                raise
            log.warning("the journal could not be written (%s)", error)
