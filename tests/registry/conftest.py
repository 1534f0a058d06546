"""Clients of the session's real servers."""

from typing import Any

import pytest

from infra.addresses import Services
from registry import runs, store


@pytest.fixture(scope="session")
def s3(servers: Services) -> Any:
    config = store.S3Config(
        endpoint=servers.s3_endpoint,
        bucket=servers.bucket,
        access_key=servers.access_key,
        secret_key=servers.secret_key,
        region=servers.region,
    )
    return store.connect(config)


@pytest.fixture(scope="session")
def client(servers: Services) -> Any:
    return runs.connect(servers.mlflow_uri)
