"""The running servers as the flows and commands see them; imports no Prefect, so that its address can still be set."""

from pathlib import Path
from typing import Any

from infra.addresses import Services
from infra.services import current, status
from registry.records import ShrinkError
from registry.store import S3Config


def services(home: Path) -> Services:
    """The running servers' addresses; raises ShrinkError when they are not up."""
    found = current(home)
    away = [name for name, state in status(home).items() if state != "healthy"]
    if found is None or away:
        raise ShrinkError(f"of the servers in '{home}', {', '.join(away)} do not answer; start them with `shrink up`.")
    return found


def s3_config(found: Services) -> S3Config:
    """How to reach the S3 of these services."""
    return S3Config(
        endpoint=found.s3_endpoint,
        bucket=found.bucket,
        access_key=found.access_key,
        secret_key=found.secret_key,
        region=found.region,
    )


def client() -> Any:
    """The MLflow client of this process's tracking server."""
    from mlflow import MlflowClient

    return MlflowClient()
