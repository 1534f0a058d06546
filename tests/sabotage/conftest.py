"""One yard for the whole suite: the session's servers, a home of its own, and sound candidates of every kind."""

from pathlib import Path
from typing import Any

import pytest

from flows.servers import s3_config
from infra import services
from registry import runs, store
from tasks import bench
from tasks.quantize.int4_weight_only import Int4WeightOnlyConfig
from tasks.quantize.int8_dynamic import Int8DynamicConfig
from tests.sabotage import models
from tests.sabotage.factory import Candidate, Yard


@pytest.fixture(scope="session")
def yard(servers: services.Services, servers_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Where candidates are registered and promoted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHRINK_HOME", str(servers_home))
        patch.setenv("SHRINK_THREADS", "1")
        s3 = store.connect(s3_config(servers))
        store.ensure_bucket(s3, servers.bucket)
        client = runs.connect(servers.mlflow_uri)
        known = client.get_experiment_by_name("sabotage")
        experiment = known.experiment_id if known else client.create_experiment("sabotage")
        scratch = tmp_path_factory.mktemp("yard")
        yield Yard(
            client=client, s3=s3, bucket=servers.bucket, home=servers_home, experiment=experiment, scratch=scratch
        )


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Candidate]:
    """Good candidates by name: full precision, 8 and 4 bits; they differ in what does not matter."""
    folder = tmp_path_factory.mktemp("sound")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "peak_rss_mb", lambda directory: 50.0)  # a process each, and no check goes by it
        teacher = models.write(folder / "teacher", models.graph(models.weights(96, 1)))
        plain = models.write(folder / "fp32", models.graph(models.weights(models.WIDTH, 2)))
        students = {
            "fp32": plain,
            "int8": models.ran(Int8DynamicConfig(), {"student": plain}, folder / "int8"),
            "int4": models.ran(Int4WeightOnlyConfig(block_size=32), {"student": plain}, folder / "int4"),
        }
        data = models.rows(folder / "data", models.judged, ["negative", "positive"])
        floor = models.based(data, folder / "floor")
        return {name: judged(folder, name, teacher, student, data, floor) for name, student in students.items()}


def judged(
    folder: Path, name: str, teacher: Path, student: Path, data: Path, floor: Path, task: str = "classify"
) -> Candidate:
    """A candidate with its real evaluation."""
    roles = {"teacher": teacher, "student": student, "floor": floor, "data": data}
    evaluation, evaluated = models.evaluated(roles, folder / f"evaluated-{name}", task)
    return Candidate(**roles, evaluation=evaluation, evaluated=evaluated, task=task)
