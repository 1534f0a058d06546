"""Store and index against a real S3 server."""

import json
import uuid
from pathlib import Path
from typing import Any

import pytest

from registry import index, store
from registry.records import digest_directory
from tests.registry.samples import record


@pytest.fixture
def bucket(s3: Any) -> str:
    name = f"store-{uuid.uuid4().hex[:12]}"
    store.ensure_bucket(s3, name)
    store.ensure_bucket(s3, name)
    return name


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "artifact"
    (made / "deep").mkdir(parents=True)
    (made / "model.bin").write_bytes(bytes(range(256)) * 9000)
    (made / "deep" / "config.json").write_text("{}")
    (made / "empty").write_text("")
    return made


def test_an_artifact_comes_back_byte_for_byte(s3: Any, bucket: str, folder: Path, tmp_path: Path) -> None:
    digest = store.put(s3, bucket, folder)
    assert digest == digest_directory(folder) == store.put(s3, bucket, folder)
    got = store.get(s3, bucket, digest, tmp_path / "got")
    assert digest_directory(got) == digest and store.has(s3, bucket, digest)
    assert store.get(s3, bucket, digest, got) == got


def test_changed_bytes_are_found_and_a_second_put_mends_them(
    s3: Any, bucket: str, folder: Path, tmp_path: Path
) -> None:
    digest = store.put(s3, bucket, folder)
    entry = store.manifest(s3, bucket, digest)["model.bin"]
    key = f"blobs/{str(entry['sha256'])[:2]}/{entry['sha256']}"
    s3.put_object(Bucket=bucket, Key=key, Body=b"x" * int(entry["size"]))
    with pytest.raises(store.CorruptArtifact, match="other bytes"):
        store.get(s3, bucket, digest, tmp_path / "got")
    assert [path.name for path in tmp_path.iterdir()] == ["artifact"]
    store.put(s3, bucket, folder)
    assert store.get(s3, bucket, digest, tmp_path / "got").is_dir()


def test_a_missing_blob_or_manifest_is_no_artifact(s3: Any, bucket: str, folder: Path, tmp_path: Path) -> None:
    digest = store.put(s3, bucket, folder)
    sha = str(store.manifest(s3, bucket, digest)["model.bin"]["sha256"])
    s3.delete_object(Bucket=bucket, Key=f"blobs/{sha[:2]}/{sha}")
    assert not store.has(s3, bucket, digest)
    with pytest.raises(store.CorruptArtifact, match="missing"):
        store.get(s3, bucket, digest, tmp_path / "got")
    with pytest.raises(store.CorruptArtifact, match="not in bucket"):
        store.get(s3, bucket, "0" * 64, tmp_path / "got")


def test_a_put_that_dies_between_blobs_leaves_no_artifact(
    s3: Any, bucket: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    real = s3.upload_file

    def dies(path: str, *rest: str) -> None:
        calls.append(path)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(path, *rest)

    monkeypatch.setattr(s3, "upload_file", dies)
    with pytest.raises(KeyboardInterrupt):
        store.put(s3, bucket, folder)
    assert not store.has(s3, bucket, digest_directory(folder))
    monkeypatch.undo()
    assert store.has(s3, bucket, store.put(s3, bucket, folder))


def test_a_folder_with_something_else_in_it_is_kept(s3: Any, bucket: str, folder: Path, tmp_path: Path) -> None:
    digest = store.put(s3, bucket, folder)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("precious")
    with pytest.raises(FileExistsError):
        store.get(s3, bucket, digest, tmp_path / "mine")
    assert (tmp_path / "mine" / "file").read_text() == "precious"


def test_the_index_remembers_and_ignores_what_it_cannot_read(s3: Any, bucket: str) -> None:
    known = record().model_copy(update={"measured": {"loss": 0.5}})
    assert index.lookup(s3, bucket, known.key) is None
    index.remember(s3, bucket, known)
    assert index.lookup(s3, bucket, known.key) == known
    body = json.loads(s3.get_object(Bucket=bucket, Key=f"index/{known.key}.json")["Body"].read())
    for damaged in (b"", b"{", b"[]", b"\xff", json.dumps({**body, "schema": 99}).encode(), b'{"schema": 1}'):
        s3.put_object(Bucket=bucket, Key=f"index/{known.key}.json", Body=damaged)
        assert index.lookup(s3, bucket, known.key) is None
    s3.put_object(Bucket=bucket, Key="index/other.json", Body=json.dumps(body).encode())
    assert index.lookup(s3, bucket, "other") is None


def test_an_object_too_large_for_a_record_is_not_read(s3: Any, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    s3.put_object(Bucket=bucket, Key="ledger/m/000001.json", Body=b"x" * 1001)
    monkeypatch.setattr(store, "RECORD_BYTES", 1000)
    with pytest.raises(RuntimeError, match="has 1,001 bytes: no record of ours"):
        store.read_object(s3, bucket, "ledger/m/000001.json")
    monkeypatch.setattr(store, "RECORD_BYTES", 1001)
    assert store.read_object(s3, bucket, "ledger/m/000001.json") == b"x" * 1001
