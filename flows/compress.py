"""THE flow: source → data → the recipe's stages → evaluate → gate → register → reload → promote.

Run it with `shrink run RECIPE`, or as the deployment in infra/prefect.yaml. Finished stages come from the index;
a failed gate is a result (the version is registered as rejected), a broken run raises and can be resumed.
"""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prefect import flow

from flows import journal as journals
from flows import outcome, servers, sources
from flows.obtain import Workshop, obtain
from flows.recipe import Recipe, load
from flows.recipe import smoke as smoke_of
from flows.settings import settings
from registry import gate, store
from registry.records import Evaluation
from tasks import carbon
from tasks.export.onnx import OnnxConfig
from tasks.reload import ReloadConfig

log = logging.getLogger("flows.compress")


@flow(name="compress", flow_run_name="{recipe}", persist_result=False, log_prints=False)
def compress(recipe: str, smoke: bool = False) -> dict[str, Any]:
    """Compress by a shipped recipe's name or a recipe file; returns the run's journal.

    Cache: registry/index, per stage. Secrets: S3 credentials from .shrink/credentials.json.
    Raises ShrinkError for what the user can mend, RuntimeError for a stage that broke.
    """
    chosen = smoke_of(load(recipe)) if smoke else load(recipe)
    with opened(chosen) as (shop, journal):
        found = chain(shop, chosen)
        evaluated = obtain(shop, chosen.evaluate, "evaluation", found)
        evaluation = Evaluation.model_validate(shop.records[-1].measured)
        verdict = gate.judge(chosen.gate, evaluation)
        version = outcome.register(shop, chosen, journal, evaluation, verdict, found["student"], evaluated)
        if verdict.passed:
            fetched = outcome.fetch(shop, chosen.name, version)
            obtain(shop, ReloadConfig(), "reload", {"model": fetched / "model", "golden": fetched / "evidence"})
            outcome.promote(shop, chosen.name, version, journal)
        journal["status"] = "passed" if verdict.passed else "rejected"
    return journal


def chain(shop: Workshop, recipe: Recipe) -> dict[str, Path]:
    """Run data, floor and the recipe's stages; returns the deployables by role (teacher, student, floor, data)."""
    home = shop.settings.home
    teacher_source = sources.resolve(recipe.teacher, home)
    data = obtain(shop, recipe.data, "data", {"source": sources.resolve(recipe.data_source, home)})
    floor = obtain(shop, recipe.floor, "floor", {"data": data})
    held = {"data": data, "floor": floor, "teacher": teacher_source, "student": teacher_source}
    for stage in recipe.stages:
        inputs = {role: held["student" if role == "model" else role] for role in stage.reads}
        role = "student" if stage.writes[0] == "model" else stage.writes[0]
        held[role] = obtain(shop, stage, role, inputs)
        if role == "teacher":
            held["student"] = held["teacher"]
    deployable = obtain(shop, OnnxConfig(), "teacher", {"model": held["teacher"]})
    return {"teacher": deployable, "student": held["student"], "floor": floor, "data": data}


@contextlib.contextmanager
def opened(recipe: Recipe) -> Iterator[tuple[Workshop, dict[str, Any]]]:
    """The run's directory, journal, meter and MLflow run; the journal ends with the run, however it ends."""
    here = settings()
    services = servers.services(here.home)
    journal = journals.begin(here.home, recipe)
    directory = here.home / "runs" / str(journal["run_id"])
    s3 = store.connect(servers.s3_config(services))
    store.ensure_bucket(s3, services.bucket)
    meter = carbon.open_meter(here.country, directory / "samples.jsonl")
    shop = Workshop(here, s3, services.bucket, directory, meter, recipe.seed)
    try:
        outcome.open_tracking(recipe, journal)
        journals.write(directory, journal)
        yield shop, journal
    except BaseException as error:
        cancelled = isinstance(error, KeyboardInterrupt)
        journal["status"], journal["error"] = "cancelled" if cancelled else "failed", f"{error}"
        raise
    finally:
        journal["stages"] = [record.model_dump(mode="json") for record in shop.records]
        journals.write(directory, journal)
        outcome.close_tracking(shop, journal)
