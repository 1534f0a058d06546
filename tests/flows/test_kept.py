"""What a recipe allows to be kept of the judged texts: nothing, keyed hashes, or a few texts for the card."""

import hashlib
import hmac
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from flows import kept, recipe
from registry.records import ShrinkError


@pytest.fixture
def places(tmp_path: Path) -> dict[str, Path]:
    found = {name: tmp_path / name for name in ("rows", "evaluated", "home", "evidence")}
    for folder in found.values():
        folder.mkdir()
    rows = [{"id": str(n), "text": f"text {n} of\tthe test", "label": n % 2} for n in range(20)]
    (found["rows"] / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (found["rows"] / "data.json").write_text(json.dumps({"labels": ["bad", "good"]}))
    teacher = np.eye(2, dtype=np.float32)[[n % 2 for n in range(20)]]
    student = teacher.copy()
    student[13] = student[13][::-1]
    labels = np.array([n % 2 for n in range(20)], dtype=np.int64)
    save_file(
        {"labels": labels, "teacher": teacher, "student": student}, found["evaluated"] / "predictions.safetensors"
    )
    return found


def keep(places: dict[str, Path], what: str) -> tuple[tuple[str, ...], dict[str, Any] | None]:
    chosen: Any = SimpleNamespace(keep_text=what, evaluate=SimpleNamespace(split="test"))
    lines = kept.keep(chosen, places["rows"], places["evaluated"], places["home"], places["evidence"])
    path = places["evidence"] / kept.FILE
    return lines, json.loads(path.read_text()) if path.exists() else None


def test_nothing_is_kept_by_default(places: dict[str, Path]) -> None:
    assert recipe.Recipe.model_fields["keep_text"].default == "none"
    assert keep(places, "none") == ((), None) and not list(places["home"].iterdir())


def test_hashes_find_a_row_again_and_only_with_the_key(places: dict[str, Path]) -> None:
    lines, held = keep(places, "hash")
    assert held is not None and lines == () and "text 1" not in json.dumps(held)
    key = places["home"] / kept.KEY
    assert key.stat().st_mode & 0o777 == 0o600 and len(key.read_text()) == 64
    own = hmac.new(bytes.fromhex(key.read_text()), b"text 7 of\tthe test", hashlib.sha256).hexdigest()
    assert held["hmac_sha256"].index(own) == 7
    assert hashlib.sha256(b"text 7 of\tthe test").hexdigest() not in held["hmac_sha256"]
    assert keep(places, "hash")[1] == held, "the key stays"


def test_samples_begin_with_those_on_which_teacher_and_student_differ(places: dict[str, Path]) -> None:
    lines, held = keep(places, "sample")
    assert held is not None and len(lines) == kept.SAMPLES == len(held["samples"])
    assert lines[0] == "text 13 of the test (label good, teacher good, student bad)"
    assert lines[1] == "text 0 of the test (label bad, teacher bad, student bad)"


def test_another_word_is_refused(tiny: Path) -> None:
    import yaml

    content = yaml.safe_load((tiny / "tiny.yaml").read_text())
    with pytest.raises(ShrinkError, match="'keep_text' = 'all'; it may be: none, hash, sample"):
        recipe.parse(content | {"keep_text": "all"}, "r.yaml")
