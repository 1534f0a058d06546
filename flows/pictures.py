"""What a person sees of a run in Prefect: its readable name, a table of the stages, one of comparison and verdict."""

from typing import Any

from flows import units, written
from flows.obtain import Workshop
from registry.gate import is_smoke
from registry.records import Evaluation, StageRecord, Verdict

SCORES = (
    "validation_accuracy",
    "validation_overlap",
    "agreement",
    "perplexity",
    "max_difference",
)  # what a stage measured, the first it has


def rename(flow_run_id: str | None, recipe: str, run_id: str) -> None:
    """Name the Prefect run after the recipe and the run's directory."""
    from uuid import UUID

    from prefect.client.orchestration import get_client

    if flow_run_id is not None:
        with get_client(sync_client=True) as client:
            client.update_flow_run(UUID(flow_run_id), name=f"{recipe} · {run_id}")


def publish(shop: Workshop, name: str, evaluation: Evaluation, verdict: Verdict) -> None:
    """Make both tables; to be called inside the flow."""
    from prefect.artifacts import create_table_artifact

    create_table_artifact([stage_row(record) for record in shop.records], key=f"{name}-stages")
    outcome = "passed" if verdict.passed else "REJECTED"
    outcome += " by the open gate of a smoke walk, which says nothing of quality" if is_smoke(name) else ""
    create_table_artifact(
        [*comparison_rows(evaluation), *verdict_rows(verdict)], key=f"{name}-verdict", description=f"verdict: {outcome}"
    )


def stage_row(record: StageRecord) -> dict[str, Any]:
    """One line of the stages' table."""
    score = next(
        (f"{name} {record.measured[name]:.4g}" for name in SCORES if record.measured.get(name) is not None), "–"
    )
    kwh = record.footprint.kwh
    return {
        "stage": units.stage_name(record.kind, record.method, record.role),
        "MB": round(record.bytes / 1e6, 3),
        "score": score,
        "seconds": round(record.footprint.seconds, 1),
        "Wh": "unmeasured" if kwh is None else round(kwh.central * 1000, 3),
        "from": "index, verified" if record.cached else "made",
        "digest": record.digest[:12],
    }


def comparison_rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Teacher, student and floor side by side."""
    if evaluation.task == "generate":
        told = written.rows(evaluation.model_dump(mode="json"))
        return [
            {"line": name, **{who: values[who] for who in written.MODELS}, "limit": "", "passed": ""}
            for name, values, _, _ in told
        ]
    scores = ("accuracy", "macro_f1", "micro_f1", "mcc")  # of an embedding model none
    own = tuple(name for name in scores if getattr(evaluation.student, name) is not None)
    fields = (*own, "bytes", "p50_ms", "p95_ms", "throughput", "peak_rss_mb")
    models = {"teacher": evaluation.teacher, "student": evaluation.student, "floor": evaluation.floor}
    rows: dict[str, dict[str, Any]] = {
        name: one.model_dump(include=set(models)) for name, one in evaluation.measures.items()
    }
    rows |= {name: {who: getattr(score, name) for who, score in models.items()} for name in fields}
    return [{"line": name, **values, "limit": "", "passed": ""} for name, values in rows.items()]


def verdict_rows(verdict: Verdict) -> list[dict[str, Any]]:
    """The verdict's checks: the student's value, its limit, and whether it passed."""
    return [
        {
            "line": f"gate: {check.name}",
            "teacher": "",
            "student": check.value,
            "floor": "",
            "limit": check.limit,
            "passed": units.STATES[check.state],
        }
        for check in verdict.checks
    ]
