"""Fixtures shared by all tests: one real S3 endpoint, MLflow server and Prefect server for the whole session."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra import services

os.environ.update(  # before anything imports Prefect or MLflow; no test phones home
    MLFLOW_DISABLE_TELEMETRY="true",
    MLFLOW_ALLOW_PICKLE_DESERIALIZATION="false",
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
    DO_NOT_TRACK="true",
)


@pytest.fixture(scope="session")
def servers_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("servers")


@pytest.fixture(scope="session")
def servers(servers_home: Path) -> Iterator[services.Services]:
    """The real services, and this process pointed at them (Prefect too, even when it was imported before)."""
    running = services.up(servers_home, dict(os.environ))
    variables = services.environment(running, servers_home)
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

            chosen = {PREFECT_API_URL: running.prefect_api, PREFECT_HOME: Path(variables["PREFECT_HOME"])}
            with temporary_settings(chosen):
                yield running
    finally:
        services.down(servers_home)
