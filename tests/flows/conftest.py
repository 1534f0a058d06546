"""What tests of a deployer share: a registry, slots whose processes are ended, a way to crown a version."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flows import keys
from flows.serve import guarding, lanes
from flows.serve.rollout import Options
from flows.servers import s3_config
from flows.settings import settings
from infra import services
from registry import promotion, runs, store, versions


@pytest.fixture
def client(servers: services.Services, servers_home: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("SHRINK_HOME", str(servers_home))  # the ledger is found from there
    store.ensure_bucket(store.connect(s3_config(servers)), servers.bucket)
    return runs.connect(servers.mlflow_uri)


AT_ONCE = Options(shadow=0, canary=0)  # a new version takes over when its golden texts are right, and is watched


@pytest.fixture
def slots() -> Iterator[Callable[..., lanes.Slot]]:
    """Slots whose processes are ended when the test is over."""
    made: list[lanes.Slot] = []

    def slot(name: str, alias: str = "live", options: Options = AT_ONCE, **others: Any) -> lanes.Slot:
        made.append(lanes.Slot(name=name, alias=alias, options=options, **others))
        return made[-1]

    yield slot
    for one in made:
        guarding.end(one)


@pytest.fixture
def crown(client: Any, servers: services.Services, tmp_path: Path) -> Callable[..., None]:
    """Makes a version the champion in the ledger."""
    s3 = store.connect(s3_config(servers))

    def promoted(name: str, version: str) -> None:
        client.set_model_version_tag(name, version, versions.VERDICT_TAG, versions.PASSED)
        held = keys.of_ledger(settings())
        promotion.promote(client, s3, servers.bucket, tmp_path / "lock", name, version, "me", "a test", keys=held)

    return promoted
