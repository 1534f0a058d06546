"""Single weights set to zero: masks against plain numpy, the two stages on a tiny BERT, and the packed file's bits."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from registry.records import ShrinkError, digest_directory
from tasks import anatomy, data, kinds, models, train
from tasks.export import packed
from tasks.prune import magnitude, masks, wanda
from tests.tasks.test_torch_stages import make_model, make_texts, make_tokenizer

DENSE = ("query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense")


@pytest.fixture
def student(tmp_path: Path) -> Path:
    out = tmp_path / "student"
    out.mkdir()
    models.save(out, make_model(), make_tokenizer(), models.Head(labels=("negative", "positive"), max_length=16))
    return out


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    out = tmp_path / "rows"
    out.mkdir()
    for name, count in (("train", 40), ("validation", 5)):
        found = [{"id": str(n), "text": text, "label": int(m > 0)} for n, (text, m) in enumerate(make_texts(count, 1))]
        data.write_rows(out / f"{name}.jsonl", found)
    return out


def made(module: Any, config: Any, inputs: dict[str, Path], out: Path) -> tuple[Path, dict[str, Any]]:
    out.mkdir()
    return out, json.loads(json.dumps(module.run(inputs, config, out, 0), allow_nan=False))


def is_pruned(name: str) -> bool:
    return name.endswith(".weight") and name.removesuffix(".weight").endswith(DENSE)


def kept_by_numpy(scores: NDArray[Any], sparsity: float) -> NDArray[np.bool_]:
    """One row after the other: strike out the smallest; of equal ones the last."""
    kept = np.ones(scores.shape, dtype=bool)
    for row, values in enumerate(scores):
        order = sorted(range(len(values)), key=lambda at: (values[at], -at))
        kept[row, order[: min(round(sparsity * len(values)), len(values) - 1)]] = False
    return kept


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 40), st.floats(0.01, 0.99), st.booleans())
def test_masks_are_those_of_numpy(seed: int, height: int, width: int, sparsity: float, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    drawn: NDArray[Any] = rng.integers(0, 3, (height, width)) if ties else rng.normal(size=(height, width))
    scores = drawn.astype(np.float32)
    found = masks.keep(torch.from_numpy(scores), sparsity).numpy()
    np.testing.assert_array_equal(found, kept_by_numpy(scores, sparsity))
    assert found.any(axis=1).all()
    assert (found.sum(axis=1) == width - min(round(sparsity * width), width - 1)).all()


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_magnitude_zeroes_the_smallest_and_touches_nothing_else(student: Path, tmp_path: Path, scope: Any) -> None:
    config = magnitude.PruneMagnitudeConfig(sparsity=0.7, scope=scope)
    out, measured = made(magnitude, config, {"student": student}, tmp_path / "out")
    before, after = (load_file(path / "model.safetensors") for path in (student, out))
    names = [name for name in before if is_pruned(name)]
    assert len(names) == 18 and measured["weights"] == sum(before[name].size for name in names)
    groups = [[name] for name in names] if scope == "layer" else [names]
    for group in groups:
        old, new = (np.concatenate([held[name].reshape(-1) for name in group]) for held in (before, after))
        gone = new == 0
        assert int(gone.sum()) == round(0.7 * old.size) and np.abs(old[gone]).max() <= np.abs(old[~gone]).min()
        np.testing.assert_array_equal(old[~gone], new[~gone])
    for name in set(before) - set(names):
        np.testing.assert_array_equal(before[name], after[name])
    for name in ("config.json", "tokenizer.json", "head.json", "head.safetensors"):
        assert (student / name).read_bytes() == (out / name).read_bytes()
    assert measured["zeros"] == sum(int((after[name] == 0).sum()) for name in names)
    spread = measured["sparsity_highest"] - measured["sparsity_lowest"]
    assert measured["sparsity"] == pytest.approx(0.7, abs=1e-3) and (spread > 0.005) == (scope == "global")
    assert not any(np.signbit(after[name][after[name] == 0]).any() for name in names)
    again, _ = made(magnitude, config, {"student": student}, tmp_path / "again")
    assert digest_directory(again) == digest_directory(out)


def inputs_by_torch(model: models.Classifier, ids: list[int], place: int) -> dict[str, NDArray[Any]]:
    """What comes into the linear layers of one encoder layer for one text, with nothing padded."""
    seen: dict[str, NDArray[Any]] = {}
    handles = [
        linear.register_forward_hook(lambda module, args, result, name=name: seen.update({name: args[0][0].numpy()}))
        for name, linear in model.layers[place].named_modules()
        if isinstance(linear, torch.nn.Linear)
    ]
    with torch.no_grad():
        model(torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.long))
    for handle in handles:
        handle.remove()
    return seen


def test_wanda_is_that_of_numpy_text_by_text_and_layer_by_layer(student: Path, rows: Path, tmp_path: Path) -> None:
    config = wanda.PruneWandaConfig(sparsity=0.5, calibration_rows=40)
    out, measured = made(wanda, config, {"student": student, "data": rows}, tmp_path / "out")
    found, (wanted, tokenizer, _) = load_file(out / "model.safetensors"), models.load(student)
    sequences = train.tokenize(tokenizer, [row["text"] for row in data.read_rows(rows, "train")])
    assert len({len(sequence) for sequence in sequences}) > 1  # so that there is padding to be left out
    compared = equal = 0
    for place, layer in enumerate(wanted.layers):
        seen = [inputs_by_torch(wanted, ids, place) for ids in sequences]
        for name, linear in anatomy.linears(layer).items():
            norms = np.linalg.norm(np.concatenate([one[name] for one in seen]).astype(np.float64), axis=0)
            kept = kept_by_numpy(np.abs(linear.weight.detach().numpy()) * norms, 0.5)
            masks.zero(linear, torch.from_numpy(kept))
            mine = found[f"encoder.layer.{place}.{name}.weight"]
            equal, compared = equal + int((mine == linear.weight.detach().numpy()).sum()), compared + mine.size
            assert ((mine == 0).sum(axis=1) == round(0.5 * mine.shape[1])).all()
    assert compared == measured["weights"] and equal / compared > 0.9995  # scores may be equal but for rounding
    assert measured["sparsity"] == measured["sparsity_lowest"] == measured["sparsity_highest"] == 0.5
    before = load_file(student / "model.safetensors")
    assert all(np.array_equal(before[name], found[name]) for name in before if not is_pruned(name))
    again, _ = made(wanda, config, {"student": student, "data": rows}, tmp_path / "again")
    assert digest_directory(again) == digest_directory(out)


def test_wanda_keeps_small_weights_with_large_inputs() -> None:
    model, sequences = make_model(), [[2, 6, 12, 3], [2, 9, 13, 14, 15, 3]]
    with torch.no_grad():
        model.encoder.embeddings.LayerNorm.weight[5] = 1e4  # the first layer's input 5 is huge, its weights are small
        model.encoder.embeddings.LayerNorm.bias.zero_()
        model.layers[0].attention.self.query.weight[:, 5] = 1e-3
    wanda.prune(model, sequences, 0.9)
    query = model.layers[0].attention.self.query.weight
    assert (query[:, 5] != 0).all() and int((query != 0).sum()) == query.shape[0] * (32 - round(0.9 * 32))


def test_wanda_needs_as_many_texts_as_it_asks_for(student: Path, rows: Path, tmp_path: Path) -> None:
    with pytest.raises(ShrinkError, match="calibration_rows of prune/wanda is 41 but the data has 40"):
        made(wanda, wanda.PruneWandaConfig(calibration_rows=41), {"student": student, "data": rows}, tmp_path / "out")


def test_a_packed_student_is_smaller_and_comes_back_to_the_same_digest(student: Path, tmp_path: Path) -> None:
    config = magnitude.PruneMagnitudeConfig(sparsity=0.7)
    sparse, _ = made(magnitude, config, {"student": student}, tmp_path / "sparse")
    out, measured = made(packed, packed.PackedConfig(), {"student": sparse}, tmp_path / "packed")
    values, stored = load_file(sparse / "model.safetensors"), packed.load(out / packed.PACKED)[0]
    costs = {name: -(-one.size // 8) + 4 * int(np.count_nonzero(one)) for name, one in values.items()}
    wanted = {name: min(cost, values[name].nbytes) for name, cost in costs.items()}
    assert sum(one.nbytes for one in stored.values()) == sum(wanted.values())
    assert measured["packed_tensors"] == sum(wanted[name] < one.nbytes for name, one in values.items()) >= 18
    assert measured["packed_bytes"] == (out / packed.PACKED).stat().st_size < 0.6 * measured["dense_bytes"]
    assert all(f"{name}.bitmask" in stored for name in values if is_pruned(name))
    (tmp_path / "restored").mkdir()
    packed.restore(out, tmp_path / "restored")
    assert digest_directory(tmp_path / "restored") == digest_directory(sparse)
    again, _ = made(packed, packed.PackedConfig(), {"student": sparse}, tmp_path / "again")
    assert digest_directory(again) == digest_directory(out)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6),
    st.lists(st.integers(0, 9), max_size=3),
    st.sampled_from(["<f4", "<f2", "<f8", "<i8", "|u1"]),
    st.floats(0, 1),
)
def test_every_bit_comes_back(tmp_path_factory: Any, seed: int, shape: list[int], kind: str, zeros: float) -> None:
    rng = np.random.default_rng(seed)
    value = np.asarray(rng.normal(size=shape) * 100).astype(kind)
    value = np.where(rng.random(shape) < zeros, np.zeros((), kind), value).astype(kind).reshape(shape)
    if value.dtype.kind == "f" and value.size > 2:
        value.reshape(-1)[:3] = (-0.0, np.nan, np.inf)
    path = tmp_path_factory.mktemp("bits") / "x.safetensors"
    packed.save(path, {"a": value, "b": np.zeros(0, np.float32)}, {"format": "pt"})
    found, about = packed.read(path)
    assert about == {"format": "pt"} and set(found) == {"a", "b"} and found["a"].shape == value.shape
    assert found["a"].dtype == value.dtype and found["a"].tobytes() == value.tobytes()


def spoiled(change: Callable[[dict[str, Any], dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Change the stored tensors or the header of a packed file."""

    def write(path: Path) -> None:
        tensors, metadata = packed.load(path)
        header = json.loads(metadata[packed.KEY])
        change(tensors, header)
        save_file(tensors, path, metadata={packed.KEY: json.dumps(header)})

    return write


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def without_header(path: Path) -> None:
    save_file(packed.load(path)[0], path)


def huge_header(path: Path) -> None:
    path.write_bytes(struct.pack("<Q", 1 << 60) + path.read_bytes()[8:])


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (spoiled(lambda t, h: t.update({"w.bitmask": t["w.bitmask"][:-1]})), "w has 3 bytes of bitmask but .* needs 4"),
        (spoiled(lambda t, h: t.update({"w.values": t["w.values"][:-1]})), "w has 1 values but its bitmask has 2 bits"),
        (spoiled(lambda t, h: t.update({"w.bitmask": t["w.bitmask"] | 1})), "w has 2 values but its bitmask has"),
        (spoiled(lambda t, h: t.update({"w.bitmask": t["w.bitmask"].astype(np.int8)})), "w lacks its bitmask"),
        (spoiled(lambda t, h: t.pop("w.values")), "w lacks its bitmask or its values"),
        (spoiled(lambda t, h: h["shapes"].update(w=[5, 50])), "w has 4 bytes of bitmask but .* needs 32"),
        (spoiled(lambda t, h: h["shapes"].update(w=[-5, -5])), "does not say how it was packed"),
        (spoiled(lambda t, h: h["shapes"].update(w=[1 << 80])), "w has 4 bytes of bitmask but"),
        (spoiled(lambda t, h: h.update(version=2)), "does not say how it was packed"),
        (spoiled(lambda t, h: h.update(shapes=[3])), "does not say how it was packed"),
        (without_header, "does not say how it was packed"),
        (cut, "cannot be read"),
        (huge_header, "cannot be read"),
        (Path.unlink, "cannot be read"),
    ],
)
def test_damaged_files_are_refused_in_one_sentence(tmp_path: Path, spoil: Callable[[Path], None], text: str) -> None:
    path, value = tmp_path / packed.PACKED, np.zeros((5, 5), np.float32)
    value[1, 2], value[4, 4] = 3, -1
    packed.save(path, {"w": value}, {})
    assert packed.read(path)[0]["w"].tobytes() == value.tobytes()
    spoil(path)
    with pytest.raises(ShrinkError, match=text) as caught:
        packed.read(path)
    assert "\n" not in str(caught.value)


def test_an_export_without_a_method_is_still_one_to_onnx() -> None:
    assert kinds.EveryStage.validate_python({"kind": "export"}).model_dump()["method"] == "onnx"
    assert isinstance(kinds.EveryStage.validate_python({"kind": "export", "method": "packed"}), packed.PackedConfig)
