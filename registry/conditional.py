"""Writing an object where none may be: by `If-None-Match` where the S3 honours it, which is tried, not assumed.

An S3 that does not know the condition, or passes over it, is written to without it: there the caller holds a lock
file, and all writers are on one host.
"""

from typing import Any

from registry.store import error_code, read_object

TAKEN = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}
UNKNOWN = {"NotImplemented", "InvalidArgument", "501", "400"}
PROBE = "ledger/.probe/object"

_tried: dict[tuple[str, str], bool] = {}


def conditional(s3: Any, bucket: str) -> bool:
    """Whether this S3 refuses to write over an object when it is asked to; it is tried once in a process."""
    from botocore.exceptions import ClientError

    where = (str(s3.meta.endpoint_url), bucket)
    if where not in _tried:
        try:
            for _ in range(2):
                s3.put_object(Bucket=bucket, Key=PROBE, Body=b"{}", IfNoneMatch="*")
            _tried[where] = False
        except ClientError as error:
            if error_code(error) not in TAKEN | UNKNOWN:
                raise
            _tried[where] = error_code(error) in TAKEN
    return _tried[where]


def put_new(s3: Any, bucket: str, key: str, body: bytes) -> bool:
    """Write an object where none may be and read it back; whether it is ours that stands there now.

    On an S3 that does not honour the condition the caller holds the lock.
    """
    from botocore.exceptions import ClientError

    asked = {"IfNoneMatch": "*"} if conditional(s3, bucket) else {}
    if asked or read_object(s3, bucket, key) is None:
        try:
            s3.put_object(Bucket=bucket, Key=key, Body=body, ContentType="application/json", **asked)
        except ClientError as error:
            if error_code(error) not in TAKEN:
                raise
    return read_object(s3, bucket, key) == body  # ours, where a request was answered twice
