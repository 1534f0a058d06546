"""Manifests keep to their digest and to their folder; cache keys cover everything that decides a result."""

from typing import Any

import pytest

from registry.index import key_of
from registry.records import sha256_json
from registry.store import CorruptArtifact, check_manifest

SHA = "0" * 64


@pytest.mark.parametrize(
    "name", ["../up", "/etc/passwd", "a/../../b", "", ".", "a//b", "./a", "a\\..\\b", "a/.", "..", "a\0b"]
)
def test_paths_that_leave_the_folder_are_refused(name: str) -> None:
    files: dict[str, Any] = {name: {"size": 1, "sha256": SHA}}
    with pytest.raises(CorruptArtifact, match="unsafe path"):
        check_manifest(files, sha256_json(files))


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"size": -1, "sha256": SHA},
        {"size": True, "sha256": SHA},
        {"size": 1, "sha256": "../x"},
        {"size": 1, "sha256": SHA, "x": 1},
        [],
    ],
)
def test_entries_without_size_and_sha_are_refused(entry: Any) -> None:
    files = {"a": entry}
    with pytest.raises(CorruptArtifact):
        check_manifest(files, sha256_json(files))


def test_a_sound_manifest_passes_and_another_digest_does_not() -> None:
    files: dict[str, Any] = {"a/b.json": {"size": 1, "sha256": SHA}}
    assert check_manifest(files, sha256_json(files)) == files
    with pytest.raises(CorruptArtifact, match="its own name"):
        check_manifest(files, SHA)


def test_every_part_of_a_key_changes_it() -> None:
    parts: dict[str, Any] = {
        "kind": "distill",
        "method": "logits",
        "config": {"epochs": 1},
        "inputs": {"data": "a"},
        "code": "c",
        "seed": 1,
        "environment": "e",
    }
    others: dict[str, Any] = {
        "kind": "prune",
        "method": None,
        "config": {"epochs": 2},
        "inputs": {"data": "b"},
        "code": "d",
        "seed": 2,
        "environment": "f",
    }
    keys = {key_of(**parts)} | {key_of(**{**parts, name: value}) for name, value in others.items()}
    assert len(keys) == 1 + len(others)
    assert key_of(**parts) == key_of(**dict(reversed(parts.items())))
