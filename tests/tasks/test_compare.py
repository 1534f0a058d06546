"""Exports read back by their own runtimes in clean processes: faithful ones, quantised ones, broken ones."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from registry.records import ShrinkError
from tasks import answers, compare
from tasks.export import packed
from tasks.prune import magnitude
from tests.tasks.test_onnx_stages import artifacts, made

__all__ = ["artifacts"]  # the fixture: one of every kind


def compared(source: tuple[Any, Path], export: tuple[Any, Path], data: Path, out: Path, exact: bool) -> dict[str, Any]:
    fields = {"method": "x", "source": source[0], "export": export[0], "exact": exact, "rows": 10}
    inputs = {"source": source[1], "export": export[1], "data": data}
    made(compare, compare.CompareConfig.model_validate(fields), inputs, out)
    seen: dict[str, Any] = json.loads((out / "comparison.json").read_text())
    return seen


def test_an_export_and_what_quantising_costs(artifacts: dict[str, Path], tmp_path: Path) -> None:
    torch, onnx, data = ("torch", artifacts["torch"]), ("onnx", artifacts["onnx"]), artifacts["data"]
    seen = compared(torch, onnx, data, tmp_path / "onnx", True)
    assert (seen["texts"], seen["agreement"]) == (10, 1.0) and 0 < seen["mean"] <= seen["largest"] < 1e-4
    assert seen["runtime"].startswith("onnxruntime 1.")
    apart = [compared(onnx, ("onnx", artifacts[name]), data, tmp_path / name, False) for name in ("int8", "int4")]
    assert 1e-4 < apart[0]["largest"] < apart[1]["largest"] < 1


def test_a_packed_export_gives_the_same_answers(artifacts: dict[str, Path], tmp_path: Path) -> None:
    config = magnitude.PruneMagnitudeConfig(sparsity=0.5)
    sparse = made(magnitude, config, {"student": artifacts["torch"]}, tmp_path / "sparse")
    small = made(packed, packed.PackedConfig(), {"student": sparse}, tmp_path / "packed")
    seen = compared(("torch", sparse), ("packed", small), artifacts["data"], tmp_path / "out", True)
    assert (seen["largest"], seen["agreement"]) == (0.0, 1.0) and seen["runtime"].startswith("torch 2.")


def test_what_decides_otherwise_is_broken_unless_it_was_quantised(artifacts: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    turned = Path(shutil.copytree(artifacts["torch"], tmp_path / "turned"))
    save_file({name: -value for name, value in load_file(turned / "head.safetensors").items()},
              turned / "head.safetensors")  # fmt: skip
    source, export, data = ("torch", turned), ("onnx", artifacts["onnx"]), artifacts["data"]
    assert compared(source, export, data, tmp_path / "reported", False)["agreement"] == 0.0
    with pytest.raises(RuntimeError, match=r"export/x decides like its source on 0.0% of 10 .* it is broken"):
        compared(source, export, data, tmp_path / "raised", True)
    assert not (tmp_path / "raised" / "comparison.json").exists()


@pytest.mark.parametrize("exact", [True, False])
def test_no_numbers_and_other_shapes_are_broken_however_made(exact: bool) -> None:
    good = np.array([[1.0, -1.0], [0.5, 0.0]], dtype=np.float32)
    apart = np.array([[0.1, 0.0], [0.0, 0.6]], dtype=np.float32)
    seen = compare.discrepancy(good, good + apart, "some 1.0", {})
    assert seen.agreement == 0.5 and seen.cosine is None
    assert seen.largest == pytest.approx(0.6) and seen.mean == pytest.approx(0.175)
    with pytest.raises(RuntimeError, match="not finite"):
        compare.discrepancy(good, np.where(good > 0.9, np.float32("nan"), good), "some 1.0", {})
    with pytest.raises(RuntimeError, match=r"answers \(1, 2\), its source \(2, 2\)"):
        compare.discrepancy(good, good[:1], "some 1.0", {})


def test_several_labels_agree_as_a_set_and_embeddings_by_cosine() -> None:
    one = np.array([[1.0, 0.2, -1.0], [2.0, -0.1, -3.0]], dtype=np.float32)
    other = one + np.array([[0.0, -0.3, 0.0], [0.0, 0.05, 0.0]], dtype=np.float32)
    assert compare.discrepancy(one, other, "x", {}).agreement == 1.0
    assert compare.discrepancy(one, other, "x", {"multi_label": True}).agreement == 0.5
    seen = compare.discrepancy(one, other, "x", {"task": "embed"})
    wanted = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(one, other, strict=True)]
    assert seen.agreement == 1.0 and seen.cosine == pytest.approx(min(wanted))
    fields = {"method": "onnx", "source": "torch", "export": "onnx", "exact": True}
    config = compare.CompareConfig.model_validate(fields)
    with pytest.raises(RuntimeError, match=r"cosine with the source's goes down to 0\.9[78]\d* .* it is broken"):
        compare.check(seen, config)
    compare.check(seen, config.model_copy(update={"exact": False}))


def test_an_export_that_cannot_be_read_back_says_so(artifacts: dict[str, Path], tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(artifacts["onnx"], tmp_path / "damaged"))
    (damaged / "model.onnx").write_bytes((damaged / "model.onnx").read_bytes()[:1000])
    with pytest.raises(RuntimeError, match=r"the onnx export cannot be read back by its own runtime: .*onnx"):
        answers.in_clean_process("onnx", damaged, ["good film"])


def test_texts_are_spread_over_the_split_and_needed(artifacts: dict[str, Path], tmp_path: Path) -> None:
    every = compare.held_out(artifacts["data"], 100)
    some = compare.held_out(artifacts["data"], 3)
    assert len(every) == 12 and some[0] == every[0] and some[-1] == every[-1] and len(some) == 3
    with pytest.raises(ShrinkError, match="no validation rows"):
        compare.held_out(tmp_path, 3)


def test_embeddings_agree_where_the_nearest_other_text_is_the_same() -> None:
    angles = np.radians([0, 10, 90, 105])
    source = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    assert compare.discrepancy(source, source, "some 1.0", {"task": "embed"}).agreement == 1
    angles[1] = np.radians(70)  # now nearest to the third text; the others keep their nearest
    moved = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    assert compare.discrepancy(source, moved, "some 1.0", {"task": "embed"}).agreement == 0.75
