"""How a version's files come into MLflow: a logged model, filled, read back and only then READY; what a kill left.

MLflow's server passes files on to S3. An upload is believed once every byte has come back from there.
"""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from registry import mlmodel
from registry.download import download
from registry.records import digest_directory


class Torn(RuntimeError):
    """What is stored is not what was sent."""


def upload(client: Any, name: str, parts: Mapping[str, Path], marks: Mapping[str, str], run_id: str) -> str:
    """Initialise, fill, read back and finalise a logged model with these tags; its id. Raises Torn."""
    experiment = client.get_run(run_id).info.experiment_id
    made = client.create_logged_model(experiment, name=name, source_run_id=run_id, tags=dict(marks))
    try:
        for part, folder in parts.items():
            client.log_model_artifacts(made.model_id, str(folder), part)
        with tempfile.TemporaryDirectory() as work:
            client.log_model_artifact(made.model_id, str(mlmodel.write(parts["model"], made.model_id, Path(work))))
        _read_back(client, made.model_id, parts)
    except Exception:
        client.finalize_logged_model(made.model_id, "FAILED")
        raise
    client.finalize_logged_model(made.model_id, "READY")
    return str(made.model_id)


def left(client: Any, run_id: str, where: str, used: set[str], same: Callable[[Mapping[str, str]], bool]) -> Any | None:
    """The whole upload that a killed registration of this run left, if its tags are the `same`; its halves are removed.

    What other runs hold unfinished is left alone: another host may be at it.
    """
    experiment = client.get_run(run_id).info.experiment_id
    whole = None
    for model in client.search_logged_models([experiment], where):
        if model.model_id in used or model.source_run_id != run_id:
            continue
        if str(model.status) == "READY" and same(model.tags):
            whole = model
        else:
            client.delete_logged_model(model.model_id)
    return whole


def _read_back(client: Any, model_id: str, parts: Mapping[str, Path]) -> None:
    with tempfile.TemporaryDirectory() as work:
        got = download(client, model_id, None, Path(work), tries=1)
        for part, folder in parts.items():
            if digest_directory(got / part) != digest_directory(folder):
                raise Torn(f"the {part} that was stored differs from what was sent: register it again")
