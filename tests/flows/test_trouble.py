"""What stopped a run is said in one line: real errors of the real clients, and a disk that says how full it is."""

import errno
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.trouble import explained

NOWHERE = "http://127.0.0.1:9"  # nothing listens there


def botocore_error() -> None:
    from registry import store

    config = store.S3Config(endpoint=NOWHERE, bucket="b", access_key="a" * 9, secret_key="b" * 9)
    store.connect(config).head_bucket(Bucket="b")


def httpx_error() -> None:
    import httpx

    httpx.get(NOWHERE, trust_env=False)


def requests_error() -> None:
    import requests
    from mlflow.exceptions import MlflowException

    try:
        requests.Session().get(NOWHERE, proxies={"http": ""})
    except requests.RequestException as error:
        raise MlflowException(f"API request to {NOWHERE} failed with exception {error}") from None


def upload_error() -> None:
    from boto3.exceptions import S3UploadFailedError

    raise S3UploadFailedError("Failed to upload w.bin to shrink/blobs: An error occurred (NoSuchUpload)")  # of rclone


def other_error() -> None:
    raise ValueError("first line\nsecond")


def full_error() -> None:
    try:
        raise OSError(errno.ENOSPC, "No space left on device", "/home/cache/x")
    except OSError as error:
        raise RuntimeError("stage 02 broke") from error


def sqlite_error() -> None:
    raise RuntimeError("INTERNAL_ERROR: (sqlite3.OperationalError) database or disk is full")


@pytest.mark.parametrize(
    ("fails", "free", "message"),
    [
        (botocore_error, 10**10, "S3 does not answer (`shrink doctor`"),
        (httpx_error, 10**10, "Prefect's server does not answer ("),
        (requests_error, 10**10, "MLflow does not answer ("),
        (upload_error, 10**10, "Failed to upload w.bin to shrink/blobs: An error occurred (NoSuchUpload)"),
        (upload_error, 10**7, "a server could not write, with 10 MB free in "),
        (other_error, 10**7, "first line"),
        (other_error, 10**6, "no space left in "),
        (full_error, 10**10, "no space left for /home/cache/x in "),
        (sqlite_error, 10**10, "no space left in "),
    ],
)
def test_the_cause_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: Callable[[], Any], free: int, message: str
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**10, 0, free))
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the retries' pauses
    with pytest.raises(Exception) as caught:
        fails()
    said = explained(tmp_path, caught.value)
    assert said.startswith(message) and "\n" not in said, said


def test_a_run_that_was_stopped_says_by_what(tmp_path: Path) -> None:
    import signal

    from prefect.exceptions import TerminationSignal

    assert explained(tmp_path, KeyboardInterrupt()) == "stopped by Ctrl-C or `shrink cancel`"
    assert explained(tmp_path, TerminationSignal(signal=signal.SIGTERM)) == "stopped by a signal"
