"""MLflow tracking: one parent run a recipe, one child run a stage; every call may be repeated after a kill."""

import json
import math
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel

from registry.records import STRICT, Evaluation, Footprint, StageRecord, Verdict

PARENT = "mlflow.parentRunId"
RUN_TAG = "shrink.run"
KEY_TAG = "shrink.key"
BATCH = 500
VALUE_CHARS = 5000
Curve = tuple[str, float, int]


def connect(uri: str) -> Any:
    """An MlflowClient for tracking and registry at one address."""
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def open_run(client: Any, experiment: str, run_name: str, tags: Mapping[str, str]) -> str:
    """Start the parent run, or open the one that carries the same `shrink.run` tag again; returns its id."""
    experiment_id = _experiment(client, experiment)
    identity = tags.get(RUN_TAG)
    if identity is not None:
        found = client.search_runs([experiment_id], f"tags.`{RUN_TAG}` = '{_quoted(identity)}'")
        parents = [run for run in found if PARENT not in run.data.tags]
        if parents:
            client.update_run(parents[0].info.run_id, status="RUNNING")
            return str(parents[0].info.run_id)
    return str(client.create_run(experiment_id, tags=dict(tags), run_name=run_name).info.run_id)


class DataSet(BaseModel):
    """The data of a run as MLflow lists it: where it is from and how many rows it has, never a row itself."""

    model_config = STRICT
    name: str
    digest: str
    source: str
    rows: dict[str, int]


def log_data(client: Any, run_id: str, data: DataSet, contexts: Sequence[str]) -> None:
    """Name the data set as an input of a run; MLflow keeps 36 characters of the digest, the source has the whole."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    source = json.dumps({"uri": data.source, "digest": data.digest})
    entry = Dataset(data.name, data.digest[:36], "local", source, profile=json.dumps(data.rows))
    tags = [InputTag("mlflow.data.context", ", ".join(contexts))]
    client.log_inputs(run_id, datasets=[DatasetInput(entry, tags)])


def log_stage(
    client: Any, run_id: str, record: StageRecord, curves: Sequence[Curve] = (), data: DataSet | None = None
) -> str:
    """Log a finished stage as a child run, once: parameters, curves, measurements, data; returns the child's id."""
    parent = client.get_run(run_id).info
    where = f"tags.`{PARENT}` = '{run_id}' and tags.`{KEY_TAG}` = '{_quoted(record.key)}'"
    for run in client.search_runs([parent.experiment_id], where):
        if run.info.status == "FINISHED" and run.data.tags.get("shrink.digest") == record.digest:
            return str(run.info.run_id)
        client.delete_run(run.info.run_id)
    tags = {
        PARENT: run_id,
        KEY_TAG: record.key,
        "shrink.kind": record.kind,
        "shrink.role": record.role,
        "shrink.digest": record.digest,
        "shrink.cached": str(record.cached).lower(),
        "shrink.energy_tier": record.footprint.tier,
    }
    name = "/".join(part for part in (record.kind, record.method, record.role) if part)
    started = _milliseconds(record.started)
    child = str(client.create_run(parent.experiment_id, start_time=started, tags=tags, run_name=name).info.run_id)
    params = {f"config.{name}": value for name, value in record.config.items()}
    params |= {f"input.{role}": digest for role, digest in record.inputs.items()}
    _log_params(client, child, params)
    _log_metrics(client, child, [*curves, *_numbers(record)])
    if data is not None and "data" in record.inputs:
        log_data(client, child, data, [{"evaluate": "evaluation"}.get(record.kind, "training")])
    client.set_terminated(child, status="FINISHED", end_time=started + round(record.footprint.seconds * 1000))
    return child


def log_evaluation(client: Any, run_id: str, evaluation: Evaluation, verdict: Verdict | None = None) -> None:
    """Log an evaluation's numbers, and the verdict's, to the parent run."""
    numbers = [(f"evaluation.{name}", value, 0) for name, value in _flatten(evaluation.model_dump(mode="json"))]
    if verdict is not None:
        numbers += [(f"gate.{check.name}", float(check.passed), 0) for check in verdict.checks]
        client.set_tag(run_id, "shrink.verdict", "passed" if verdict.passed else "rejected")
    _log_metrics(client, run_id, numbers)


def log_recipe(client: Any, run_id: str, recipe: Mapping[str, Any], note: str | None = None) -> None:
    """The recipe as the parent run's parameters (stages numbered), and a note that its page shows first."""
    flat: dict[str, Any] = {}
    for name, value in recipe.items():
        inner = {f"{place:02d}": one for place, one in enumerate(value)} if isinstance(value, list | tuple) else value
        if isinstance(inner, Mapping):
            flat |= {f"{name}.{key}": one for key, one in inner.items()}
        else:
            flat[name] = inner
    _log_params(client, run_id, flat)
    if note is not None:
        client.set_tag(run_id, "mlflow.note.content", note)


def close_run(
    client: Any, run_id: str, status: Literal["FINISHED", "FAILED", "KILLED"], footprint: Footprint | None = None
) -> None:
    """End the parent run, with the whole run's energy and time where they are known."""
    if footprint is not None:
        _log_metrics(client, run_id, _energy(footprint))
    client.set_terminated(run_id, status=status)


def kill_run(client: Any, experiment: str, identity: str) -> None:
    """End what is still RUNNING of the run tagged `shrink.run` = identity, itself and its children, as KILLED."""
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return
    for parent in client.search_runs([found.experiment_id], f"tags.`{RUN_TAG}` = '{_quoted(identity)}'"):
        children = client.search_runs([found.experiment_id], f"tags.`{PARENT}` = '{parent.info.run_id}'")
        for run in (parent, *children):
            if run.info.status == "RUNNING":
                client.set_terminated(run.info.run_id, status="KILLED")


def _experiment(client: Any, name: str) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, tags={"mlflow.experimentKind": "custom_model_development"}))
        except MlflowException as error:
            found = client.get_experiment_by_name(name)
            if error.error_code != "RESOURCE_ALREADY_EXISTS" or found is None:
                raise
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def _numbers(record: StageRecord) -> list[Curve]:
    seen: list[Curve] = [
        ("bytes", float(record.bytes), 0),
        ("cpu_seconds", record.cpu_seconds, 0),
        ("peak_rss_mb", record.peak_rss_mb, 0),
        *_energy(record.footprint),
    ]
    return seen + [(f"measured.{name}", value, 0) for name, value in _flatten(record.measured)]


def _energy(footprint: Footprint) -> list[Curve]:
    seen: list[Curve] = [("seconds", footprint.seconds, 0)]
    if footprint.kwh is not None:
        band = footprint.kwh
        seen += [("kwh.low", band.low, 0), ("kwh", band.central, 0), ("kwh.high", band.high, 0)]
    return seen


def _flatten(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    flat: list[tuple[str, float]] = []
    for name, inner in value.items():
        if isinstance(inner, Mapping):
            flat += _flatten(inner, f"{prefix}{name}.")
        elif isinstance(inner, list):
            flat += _flatten({str(place): one for place, one in enumerate(inner, start=1)}, f"{prefix}{name}.")
        elif isinstance(inner, int | float):
            flat.append((f"{prefix}{name}", float(inner)))
    return flat


def _log_params(client: Any, run_id: str, values: Mapping[str, Any]) -> None:
    from mlflow.entities import Param

    params = []
    for name, value in sorted(values.items()):
        text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        params.append(Param(_clean(name), text[:VALUE_CHARS]))
    for start in range(0, len(params), 100):
        client.log_batch(run_id, params=params[start : start + 100])


def _log_metrics(client: Any, run_id: str, curves: Sequence[Curve]) -> None:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    metrics = [Metric(_clean(name), float(value), now, step) for name, value, step in curves if math.isfinite(value)]
    for start in range(0, len(metrics), BATCH):
        client.log_batch(run_id, metrics=metrics[start : start + BATCH])


def _clean(name: str) -> str:
    return "".join(char if char.isalnum() or char in "_-./ " else "_" for char in name)[:250]


def _quoted(text: str) -> str:
    if "'" in text:
        raise ValueError(f"{text!r} holds a quote and cannot be searched for in MLflow")
    return text


def _milliseconds(started: str) -> int:
    moment = datetime.fromisoformat(started)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1000)
