"""The stages that round a decoder: every family, what is counted, what is refused, a kill in the middle."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from registry.records import ShrinkError, digest_directory
from tasks import checkpoint
from tasks.generate import choices, gguf_blocks, gptq, grids, lm, rounding, walk
from tasks.kinds import EveryStage, function_of
from tasks.quantize import awq, rtn
from tests.tasks.generate.decoders import FAMILIES, tiny
from tests.tasks.generate.folders import logits, model_folder, rows_folder

ROOT = Path(__file__).parents[3]
SMALL = {"calibration_blocks": 12, "calibration_length": 24, "batch": 4}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rows_folder(tmp_path_factory.mktemp("rows") / "data")


def rounded(student: Path, data: Path, out: Path, **settings: Any) -> dict[str, Any]:
    config = EveryStage.validate_python({"kind": "quantize", **SMALL, **settings})
    return function_of(config)({"student": student, "data": data}, config, out, 1)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["rtn", "gptq", "awq"])
def test_every_family_is_rounded_and_read_again(tmp_path: Path, data: Path, family: str, method: str) -> None:
    student, out = model_folder(tmp_path / "student", family), tmp_path / "out"
    measured = rounded(student, data, out, method=method, grid="int4_g16_zero", embedding="q8_0")
    before, after = logits(student), logits(out)
    assert 0 < float((before - after).norm() / before.norm()) < 0.6
    model = lm.load(out)
    for linear in rounding.linears(model).values():
        groups = walk.weight_of(linear).unflatten(1, (-1, 16)).flatten(0, 1)
        assert max(len(group.unique()) for group in groups) <= 16
    inside = [walk.weight_of(one).numel() for one in rounding.linears(model).values()]
    assert measured["weights"]["int4_g16_zero"] == sum(inside)
    assert 4 < measured["bits_per_weight"] < 10


DYING = """
import os, signal, sys
from pathlib import Path
import torch
from tasks import checkpoint
from tasks.generate import gptq
from tasks.kinds import EveryStage, function_of

torch.set_num_threads(int(sys.argv[5]))
at, student, data, config = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
checkpoint.keep_in(at, "key")
quantize, called = gptq.quantize, iter(range(100))

def dying(*arguments):
    if next(called) == 11:  # the embedding, then seven linears a layer: in the second
        os.kill(os.getpid(), signal.SIGKILL)
    return quantize(*arguments)

gptq.quantize = dying
found = EveryStage.validate_json(config)
function_of(found)({"student": student, "data": data}, found, at / "killed", 1)
"""


def test_killed_in_a_layer_it_goes_on_there_with_the_same_digest(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real kill of a process; then the call is made again, here."""
    student = model_folder(tmp_path / "student")
    settings = {"method": "gptq", "grid": "q4_0", "embedding": "q8_0", "exceptions": {"layers.1.*": "q5_1"}}
    rounded(student, data, tmp_path / "whole", **settings)
    config = json.dumps({"kind": "quantize", **SMALL, **settings})
    killed = subprocess.run(
        [sys.executable, "-c", DYING, tmp_path, student, data, config, str(torch.get_num_threads())],
        cwd=ROOT,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    quantize = gptq.quantize
    monkeypatch.setattr(checkpoint, "place", (tmp_path, "key"))
    assert not (tmp_path / "killed").exists() and (tmp_path / "part-layer0.safetensors").exists()
    counted: list[int] = []

    def counting(*arguments: Any) -> grids.Rounded:
        counted.append(1)
        return quantize(*arguments)

    monkeypatch.setattr(gptq, "quantize", counting)
    rounded(student, data, tmp_path / "again", **settings)
    assert len(counted) == 14
    assert digest_directory(tmp_path / "again") == digest_directory(tmp_path / "whole")
    checkpoint.clear()
    assert not list(tmp_path.glob("*part-*"))


def test_factors_moved_before_a_kill_are_there_again(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AWQ changes norms, too: what a finished layer holds besides its integers comes back."""
    model = tiny("llama")
    for one in model.model.layers:
        one.input_layernorm.weight.data[::8] *= 20
    student, settings = model_folder(tmp_path / "student", model=model), {"method": "awq", "grid": "int3_g16_zero"}
    rounded(student, data, tmp_path / "whole", **settings)
    norm = "model.layers.0.input_layernorm.weight"
    norms = [load_file(folder / "model.safetensors")[norm] for folder in (student, tmp_path / "whole")]
    assert not torch.equal(*norms)
    monkeypatch.setattr(checkpoint, "place", (tmp_path, "key"))
    layer, called = awq.layer, iter(range(100))

    def cut(*arguments: Any) -> dict[str, grids.Rounded]:
        if next(called) == 2:
            raise KeyboardInterrupt
        return layer(*arguments)

    monkeypatch.setattr(awq, "layer", cut)
    with pytest.raises(KeyboardInterrupt):
        rounded(student, data, tmp_path / "cut", **settings)
    rounded(student, data, tmp_path / "again", **settings)
    assert next(called) == len(model.model.layers) + 1
    assert digest_directory(tmp_path / "again") == digest_directory(tmp_path / "whole")


def test_a_part_of_another_key_or_with_a_flipped_bit_is_not_used(tmp_path: Path) -> None:
    kept = {"a": torch.arange(6.0)}
    checkpoint.keep_part((tmp_path, "key"), "layer0", kept)
    assert torch.equal((checkpoint.part((tmp_path, "key"), "layer0") or {})["a"], kept["a"])
    assert checkpoint.part((tmp_path, "other"), "layer0") is None
    path = tmp_path / "part-layer0.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert checkpoint.part((tmp_path, "key"), "layer0") is None


def test_gptq_beats_nearest_and_what_is_claimed_is_what_the_file_takes(tmp_path: Path, data: Path) -> None:
    """On text whose inputs hang together: the logits' distance; bits by the tensors of the GGUF file."""
    student, apart = model_folder(tmp_path / "student"), {}
    before = logits(student)
    for method in ("rtn", "gptq"):
        measured = rounded(student, data, tmp_path / method, method=method, grid="q4_0", embedding="none")
        apart[method] = float((logits(tmp_path / method) - before).norm() / before.norm())
    assert apart["gptq"] < 0.8 * apart["rtn"]
    stored, size = load_file(tmp_path / "gptq" / "model.safetensors"), 0
    weights = lm.own_weights(lm.load(student))
    for name, weight in weights.items():
        if f"{name}.codes" in stored:
            scale = stored[f"{name}.scale"].float()
            size += gguf_blocks.packed("q4_0", grids.Rounded(stored[f"{name}.codes"], scale, 0 * scale)).nbytes
        else:
            size += weight.numel() * (2 if weight.ndim > 1 else 4)
    assert measured["bits_per_weight"] == pytest.approx(8 * size / sum(map(torch.numel, weights.values())))


def test_exceptions_and_the_embedding_have_their_own_grids(tmp_path: Path, data: Path) -> None:
    student, out = model_folder(tmp_path / "student"), tmp_path / "out"
    given = {"down_proj": "q8_0", "layers.0.*": "none", "layers.0.self_attn.q_proj": "int4_g8"}
    rounded(student, data, out, method="rtn", grid="q4_0", embedding="q5_1", exceptions=given)
    said = json.loads((out / "grids.json").read_text())
    assert said["model.layers.0.self_attn.q_proj.weight"]["name"] == "int4_g8"
    assert "model.layers.0.mlp.down_proj.weight" not in said
    assert said["model.layers.1.mlp.down_proj.weight"]["name"] == "q8_0"
    assert said["model.embed_tokens.weight"]["name"] == "q5_1" and "lm_head.weight" not in said
    assert said["model.layers.2.self_attn.k_proj.weight"]["name"] == "q4_0"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"grid": "int4_g48"},
            r"q_proj has 32 inputs, which groups of 48 \(int4_g48\) do not divide: groups of",
        ),
        ({"grid": "q4_0", "exceptions": {"up": "q8_0"}}, r"exceptions names 'up', which no layer is called: there are"),
        (
            {"grid": "q4_0", "calibration_blocks": 500},
            r"500 blocks of 24 tokens but the training text has 51",
        ),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, data: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ShrinkError, match=message):
        rounded(model_folder(tmp_path / "student"), data, tmp_path / "out", method="gptq", **settings)


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, data: Path) -> None:
    model = tiny("llama")
    model.model.layers[1].mlp.up_proj.weight.data[3, 4] = float("nan")
    student = model_folder(tmp_path / "student", model=model)
    with pytest.raises(ShrinkError, match=r"model.layers.1.mlp.up_proj.weight holds numbers that are not finite"):
        rounded(student, data, tmp_path / "out", method="rtn", grid="q4_0")


@pytest.mark.parametrize("name", ["q4_2", "int9_g32", "int4", "int4_g0", "int4_g32_zeros"])
def test_unknown_grids_are_refused_with_those_there_are(name: str) -> None:
    for field in ({"grid": name}, {"grid": "q4_0", "embedding": name}, {"grid": "q4_0", "exceptions": {"x": name}}):
        with pytest.raises(ValidationError, match=r"there are q4_0, q4_1, q5_0, q5_1, q8_0, and integers of"):
            EveryStage.validate_python({"kind": "quantize", "method": "rtn", **field})


def test_what_a_gguf_file_cannot_hold_is_known_beforehand() -> None:
    def missing(**fields: Any) -> str | None:
        return choices.gguf_missing(rtn.RtnConfig.model_validate(fields))

    assert missing(grid="q4_0", embedding="none", exceptions={"down_proj": "q8_0"}) is None
    assert missing(grid="int4_g32") == "int4_g32"
    assert missing(grid="q4_0", exceptions={"down_proj": "int8_g32"}) == "int8_g32"
