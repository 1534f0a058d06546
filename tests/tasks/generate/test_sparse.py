"""prune/sparse: zeros where they were asked for, better choices lose less, a pattern, refusals, every family."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from registry.records import ShrinkError, digest_directory
from tasks import checkpoint, compare
from tasks.export import packed
from tasks.generate import lm, rounding, walk
from tasks.prune import sparse
from tests.tasks.generate.decoders import FAMILIES, tiny
from tests.tasks.generate.folders import logits, model_folder, rows_folder

SMALL = {"calibration_blocks": 12, "calibration_length": 24, "batch": 4}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rows_folder(tmp_path_factory.mktemp("rows") / "data")


def pruned(student: Path, data: Path, out: Path, **settings: Any) -> dict[str, Any]:
    config = sparse.PruneSparseConfig.model_validate({**SMALL, **settings})
    return sparse.run({"student": student, "data": data}, config, out, 1)


def zeros(folder: Path) -> list[Tensor]:
    return [walk.weight_of(one) == 0 for one in rounding.linears(lm.load(folder)).values()]


@pytest.mark.parametrize("importance", ["magnitude", "wanda", "sparsegpt"])
@pytest.mark.parametrize("family", FAMILIES)
def test_half_of_the_weights_go_in_every_family(tmp_path: Path, data: Path, family: str, importance: str) -> None:
    student = model_folder(tmp_path / "student", family)
    told = pruned(student, data, tmp_path / "out", importance=importance)
    found = zeros(tmp_path / "out")
    assert told["zeros"] == sum(int(one.sum()) for one in found)
    assert told["sparsity"] == pytest.approx(0.5, abs=0.01) and torch.isfinite(logits(tmp_path / "out")).all()


def test_what_is_chosen_by_inputs_loses_less_and_repair_least(tmp_path: Path, data: Path) -> None:
    """Inputs of very different size, as a trained model has: one channel in eight carries most."""
    model = tiny("llama")
    for layer in model.model.layers:
        for norm in (layer.input_layernorm, layer.post_attention_layernorm):
            norm.weight.data[::8] *= 12
    student = model_folder(tmp_path / "student", model=model)
    before, apart = logits(student), {}
    for importance in ("magnitude", "wanda", "sparsegpt"):
        pruned(student, data, tmp_path / importance, importance=importance)
        apart[importance] = float((logits(tmp_path / importance) - before).norm() / before.norm())
    assert apart["wanda"] < 0.9 * apart["magnitude"] and apart["sparsegpt"] < 0.9 * apart["wanda"], apart


def test_wanda_takes_what_its_formula_says() -> None:
    """|W_ij| * ||X_j||: the smaller half of each row (numpy over the inputs), and of each four neighbours."""
    generator = torch.Generator().manual_seed(4)
    weight, inputs = torch.randn(6, 32, generator=generator), torch.randn(50, 32, generator=generator)
    inputs[:, ::5] *= 10
    scores = np.abs(weight.numpy()) * np.linalg.norm(inputs.numpy(), axis=0)
    for pattern, groups in ((None, 32), ("2:4", 4)):
        config = sparse.PruneSparseConfig.model_validate({"importance": "wanda", "pattern": pattern})
        found = sparse.pruned(weight, inputs.T @ inputs, config).numpy()
        lost = scores.reshape(-1, groups).argsort(1)[:, : groups // 2]
        wanted = weight.numpy().reshape(-1, groups).copy()
        np.put_along_axis(wanted, lost, 0.0, axis=1)
        assert (found == wanted.reshape(6, 32)).all()


@pytest.mark.parametrize("importance", ["magnitude", "wanda", "sparsegpt"])
@pytest.mark.parametrize("pattern", ["2:4", "4:8", "12:16"])
def test_a_pattern_holds_in_every_group(tmp_path: Path, data: Path, importance: str, pattern: str) -> None:
    lost, of = map(int, pattern.split(":"))
    pruned(model_folder(tmp_path / "student"), data, tmp_path / "out", importance=importance, pattern=pattern)
    for one in zeros(tmp_path / "out"):
        assert (one.unflatten(1, (-1, of)).sum(2) == lost).all()


def test_a_layer_that_is_done_is_not_pruned_again(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    student = model_folder(tmp_path / "student")
    pruned(student, data, tmp_path / "whole")
    monkeypatch.setattr(checkpoint, "place", (tmp_path, "key"))
    change, called = sparse.pruned, iter(range(100))

    def cut(*arguments: Any) -> Tensor:
        if next(called) == 16:
            raise KeyboardInterrupt
        return change(*arguments)

    monkeypatch.setattr(sparse, "pruned", cut)
    with pytest.raises(KeyboardInterrupt):
        pruned(student, data, tmp_path / "cut")
    pruned(student, data, tmp_path / "again")
    assert next(called) == 17 + 7  # the third layer alone
    assert digest_directory(tmp_path / "again") == digest_directory(tmp_path / "whole")


def test_what_cannot_be_is_refused(tmp_path: Path, data: Path) -> None:
    student = model_folder(tmp_path / "student")
    with pytest.raises(ShrinkError, match=r"q_proj has 32 inputs, which pattern 2:5 does not divide: choose another m"):
        pruned(student, data, tmp_path / "out", pattern="2:5")
    with pytest.raises(ShrinkError, match=r"500 blocks of 24 tokens but the training text has"):
        pruned(student, data, tmp_path / "out", calibration_blocks=500)
    for given, message in (
        ({"pattern": "4:4"}, r"pattern is 4:4 but not all neighbours may go"),
        ({"pattern": "2:4", "sparsity": 0.5}, r"pattern 2:4 says how many weights go: leave sparsity out"),
        ({"pattern": "2/4"}, r"String should match pattern"),
    ):
        with pytest.raises(ValidationError, match=message):
            sparse.PruneSparseConfig.model_validate(given)


@pytest.mark.parametrize("pattern", [None, "2:4"])
def test_a_packed_export_is_smaller_and_says_the_same(tmp_path: Path, data: Path, pattern: str | None) -> None:
    student, sparsed = model_folder(tmp_path / "student"), tmp_path / "sparse"
    pruned(student, data, sparsed, pattern=pattern)
    sizes = {}
    for name, folder in (("dense", student), ("sparse", sparsed)):
        (out := tmp_path / f"packed-{name}").mkdir()
        sizes[name] = packed.run({"student": folder}, packed.PackedConfig(), out, 0)
    assert sizes["dense"]["packed_tensors"] == 0
    assert sizes["sparse"]["packed_bytes"] < 0.8 * sizes["sparse"]["dense_bytes"]
    assert sizes["sparse"]["packed_zeros"] == pytest.approx(0.5, abs=0.01)
    packed.restore(tmp_path / "packed-sparse", Path(tempfile.mkdtemp(dir=tmp_path, prefix="again")))
    (again,) = tmp_path.glob("again*")
    assert digest_directory(again) == digest_directory(sparsed)
    inputs = {"source": sparsed, "export": tmp_path / "packed-sparse", "data": data}
    config = compare.CompareConfig(method="packed", source="lm", export="packed", exact=True, rows=2)
    (out := tmp_path / "compared").mkdir()
    seen = compare.run(inputs, config, out, 0)
    assert (seen["largest"], seen["agreement"], seen["unit"]) == (0.0, 1.0, "token")
