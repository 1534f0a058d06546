"""Writing where none may be on an S3 that knows the condition, passes over it, or answers 501 to it."""

import uuid
from typing import Any

import pytest
from botocore.exceptions import ClientError

from registry import ledger, movements, store
from registry.conditional import conditional, put_new

BUCKET = "conditional-tests"


class Odd:
    """A client of an S3 that refuses the condition with an error of its own."""

    def __init__(self, real: Any, code: str) -> None:
        self.real, self.code = real, code
        self.meta = type("Meta", (), {"endpoint_url": f"http://odd.invalid/{uuid.uuid4().hex}"})

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def put_object(self, **given: Any) -> Any:
        if "IfNoneMatch" in given:
            raise ClientError({"Error": {"Code": self.code}}, "PutObject")
        return self.real.put_object(**given)


@pytest.mark.parametrize("code", ["NotImplemented", "501", "InvalidArgument"])
def test_an_s3_without_the_condition_is_written_to_under_the_lock_alone(s3: Any, code: str) -> None:
    store.ensure_bucket(s3, BUCKET)
    odd, key = Odd(s3, code), uuid.uuid4().hex
    assert not conditional(odd, BUCKET)
    assert put_new(odd, BUCKET, key, b"first") and put_new(odd, BUCKET, key, b"first")
    assert not put_new(odd, BUCKET, key, b"second") and store.read_object(s3, BUCKET, key) == b"first"
    said = {"seq": 1, "event": "start", "recipe": key, "recipe_digest": "d" * 64, "versions": {}, "digests": {}}
    entry = movements.Movement.model_validate(said | {"attempt": 1, "who": "me", "when": movements.now()})
    assert movements.append(odd, BUCKET, entry)
    assert not movements.append(odd, BUCKET, entry.model_copy(update={"who": "another"}))
    written = {"action": "promote", "target": "1", "former": None, "previous": None, "digest": "", "who": "", "why": ""}
    assert ledger.append(odd, BUCKET, ledger.following([], model=key, **written)).seq == 1


def test_an_error_of_another_kind_is_no_answer(s3: Any) -> None:
    with pytest.raises(ClientError, match="AccessDenied"):
        conditional(Odd(s3, "AccessDenied"), BUCKET)
