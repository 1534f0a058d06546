"""Content-addressed artifacts on S3: blobs first, the manifest last, every byte hashed again on the way back.

A blob is `blobs/<sha[:2]>/<sha>`, an artifact is `manifests/<digest>.json`; an artifact exists once its manifest does.
Nothing is assumed of the S3 behind the endpoint: not its checksums, its ETags, nor its conditional writes.
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from registry.records import digest_directory, manifest_of, sha256_json

SCHEMA = 1
CHUNK = 1 << 20
RECORD_BYTES = 100_000_000  # more than any ledger entry, manifest or report has
MISSING = {"404", "NoSuchKey", "NoSuchBucket", "NotFound"}
Manifest = dict[str, dict[str, int | str]]


class S3Config(BaseModel):
    """Where the S3 is and how to sign for it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    endpoint: str | None = Field(None, description="URL of the S3 endpoint; null means Amazon's own")
    bucket: str = Field(description="bucket that holds blobs, manifests, index and ledger")
    access_key: str | None = Field(None, repr=False, description="access key; null means the client's own chain")
    secret_key: str | None = Field(None, repr=False, description="secret key that belongs to the access key")
    region: str = Field("us-east-1", description="region the requests are signed for")


class CorruptArtifact(RuntimeError):
    """A stored artifact is incomplete or its bytes are not those its digest names: compute it again."""


def connect(config: S3Config) -> Any:
    """A boto3 client that works with Amazon, Ceph and rclone alike."""
    import boto3
    from botocore.config import Config

    options = Config(
        signature_version="s3v4",
        s3={"addressing_style": "path" if config.endpoint else "auto"},
        retries={"mode": "standard", "max_attempts": 6},
        connect_timeout=10,
        read_timeout=120,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    return boto3.client(
        "s3",
        endpoint_url=config.endpoint,
        aws_access_key_id=config.access_key,
        aws_secret_access_key=config.secret_key,
        region_name=config.region,
        config=options,
    )


def error_code(error: Any) -> str:
    """The S3 error code of a botocore ClientError."""
    return str(error.response.get("Error", {}).get("Code", ""))


def ensure_bucket(s3: Any, bucket: str) -> None:
    """Create the bucket unless it is there."""
    from botocore.exceptions import ClientError

    try:
        s3.head_bucket(Bucket=bucket)
        return
    except ClientError as error:
        if error_code(error) not in MISSING:
            raise
    region = s3.meta.region_name
    extra = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
    try:
        s3.create_bucket(Bucket=bucket, **extra)
    except ClientError as error:
        if error_code(error) not in {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}:
            raise
        s3.head_bucket(Bucket=bucket)


def read_object(s3: Any, bucket: str, key: str) -> bytes | None:
    """All bytes of a record, or None when there is none; raises RuntimeError for one too large to be of ours."""
    from botocore.exceptions import ClientError

    try:
        found = s3.get_object(Bucket=bucket, Key=key)
    except ClientError as error:
        if error_code(error) in MISSING:
            return None
        raise
    if found["ContentLength"] > RECORD_BYTES:  # memory is not for whoever may write to the bucket to fill
        found["Body"].close()
        raise RuntimeError(f"{key} in the bucket has {found['ContentLength']:,} bytes: no record of ours, remove it")
    body: bytes = found["Body"].read()
    return body


def check_manifest(files: Mapping[str, Any], digest: str) -> Manifest:
    """The manifest again, once its digest fits and every path stays inside the folder it is unpacked into."""
    if sha256_json(files) != digest:
        raise CorruptArtifact(f"manifest {digest} does not hash to its own name: compute the artifact again")
    for name, entry in files.items():
        pure = PurePosixPath(name)
        plain = name == pure.as_posix() and name not in {"", "."} and not set(name) & set("\\\0")
        if not plain or pure.is_absolute() or ".." in pure.parts:
            raise CorruptArtifact(f"manifest {digest} holds the unsafe path {name!r}")
        fits = isinstance(entry, dict) and set(entry) == {"size", "sha256"} and type(entry["size"]) is int
        if not fits or entry["size"] < 0 or not _is_sha(entry["sha256"]):
            raise CorruptArtifact(f"manifest {digest} has no valid size and sha256 for {name!r}")
    return dict(files)


def put(s3: Any, bucket: str, directory: Path) -> str:
    """Store a directory and return its digest; blobs that are already there intact are not sent again."""
    files = manifest_of(directory)
    digest = sha256_json(files)
    check_manifest(files, digest)
    for name, entry in files.items():
        sha, size = str(entry["sha256"]), int(entry["size"])
        if _intact(s3, bucket, sha, size):
            continue
        s3.upload_file(str(directory / name), bucket, _blob(sha))
        if not _intact(s3, bucket, sha, size):
            raise CorruptArtifact(f"{name} read back from the store differs from what was sent (sha256 {sha})")
    if not has(s3, bucket, digest):
        body = json.dumps({"schema": SCHEMA, "files": files}, sort_keys=True).encode()
        s3.put_object(Bucket=bucket, Key=_manifest(digest), Body=body, ContentType="application/json")
    return digest


def get(s3: Any, bucket: str, digest: str, dest: Path) -> Path:
    """Bring an artifact to `dest`: every file is hashed in a temporary folder, which is renamed at the end.

    The folder's name carries this process's id, so that one left by a kill is known as such.
    """
    if dest.is_dir() and any(dest.iterdir()):
        if digest_directory(dest) == digest:
            return dest
        raise FileExistsError(f"{dest} holds something other than artifact {digest}: remove it or name another folder")
    files = manifest(s3, bucket, digest)
    dest.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{dest.name}.{os.getpid()}.", dir=dest.parent))
    try:
        for name, entry in files.items():
            target = work / name
            target.parent.mkdir(parents=True, exist_ok=True)
            _download(s3, bucket, str(entry["sha256"]), int(entry["size"]), target)
        work.chmod(0o755)
        work.rename(dest)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return dest


def manifest(s3: Any, bucket: str, digest: str) -> Manifest:
    """The checked manifest of an artifact: {relative path: {size, sha256}}."""
    body = read_object(s3, bucket, _manifest(digest))
    if body is None:
        raise CorruptArtifact(f"artifact {digest} is not in bucket {bucket}: compute it again")
    try:
        value = json.loads(body)
        if value["schema"] != SCHEMA:
            raise CorruptArtifact(f"manifest {digest} has schema {value['schema']!r}, this program reads {SCHEMA}")
        files = value["files"]
        return check_manifest(files if isinstance(files, dict) else {}, digest)
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptArtifact(f"manifest {digest} cannot be read: {error}") from error


def has(s3: Any, bucket: str, digest: str) -> bool:
    """Whether a sound manifest of this artifact is stored and all its blobs are there in their size."""
    try:
        files = manifest(s3, bucket, digest)
    except CorruptArtifact:
        return False
    return all(_size(s3, bucket, str(entry["sha256"])) == entry["size"] for entry in files.values())


def _is_sha(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) is not None


def _blob(sha: str) -> str:
    return f"blobs/{sha[:2]}/{sha}"


def _manifest(digest: str) -> str:
    if not _is_sha(digest):
        raise CorruptArtifact(f"digest {digest!r} is not 64 hexadecimal digits")
    return f"manifests/{digest}.json"


def _size(s3: Any, bucket: str, sha: str) -> int | None:
    from botocore.exceptions import ClientError

    try:
        return int(s3.head_object(Bucket=bucket, Key=_blob(sha))["ContentLength"])
    except ClientError as error:
        if error_code(error) in MISSING:
            return None
        raise


def _intact(s3: Any, bucket: str, sha: str, size: int) -> bool:
    if _size(s3, bucket, sha) != size:
        return False
    hashed = hashlib.sha256()
    for chunk in s3.get_object(Bucket=bucket, Key=_blob(sha))["Body"].iter_chunks(CHUNK):
        hashed.update(chunk)
    return hashed.hexdigest() == sha


def _download(s3: Any, bucket: str, sha: str, size: int, target: Path) -> None:
    from botocore.exceptions import ClientError

    try:
        body = s3.get_object(Bucket=bucket, Key=_blob(sha))["Body"]
    except ClientError as error:
        if error_code(error) in MISSING:
            raise CorruptArtifact(f"blob {sha} of {target.name} is missing: compute the artifact again") from error
        raise
    hashed, seen = hashlib.sha256(), 0
    with target.open("xb") as stream:
        for chunk in body.iter_chunks(CHUNK):
            hashed.update(chunk)
            seen += len(chunk)
            stream.write(chunk)
        stream.flush()
        os.fsync(stream.fileno())
    if seen != size or hashed.hexdigest() != sha:
        raise CorruptArtifact(f"{target.name} has other bytes than its sha256 {sha}: compute the artifact again")
