"""compressed-tensors: read back by the library itself in a clean process, to the numbers that were rounded."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from registry.records import ShrinkError
from tasks import answers
from tasks.export.compressed_tensors import CompressedTensorsConfig, described, run
from tasks.generate import grids, lm
from tests.tasks.generate import decoders

pytest.importorskip("compressed_tensors", reason="the extra compressed-tensors is not installed")
TEXTS = ["the quick brown fox", "jumps over"]


def rounded(at: Path, chosen: dict[str, str]) -> Path:
    """A tiny Llama whose linear layers lie on the grids that are named by a part of their names."""
    model, known, found = lm.load(decoders.folder(at / "whole")), {}, {}
    for name, weight in lm.own_weights(model).items():
        for part, grid in chosen.items():
            if part in name:
                known[name] = grids.named(grid)
                found[name] = grids.nearest(weight, known[name])
    lm.save(at / "rounded", model, at / "whole", found, known)
    return at / "rounded"


@pytest.mark.parametrize(
    "chosen",
    [
        {"proj": "q4_0"},
        {"proj": "q8_0"},
        {"proj": "int4_g16_zero"},
        {"mlp": "int4_g16", "k_proj": "q8_0", "o_proj": "q5_0"},
    ],
    ids=lambda chosen: " ".join(chosen.values()),
)
def test_the_library_reads_the_numbers_that_were_rounded(tmp_path: Path, chosen: dict[str, str]) -> None:
    source, out = rounded(tmp_path, chosen), tmp_path / "out"
    out.mkdir()
    told = run({"student": source}, CompressedTensorsConfig(), out, 0)
    expected = answers.answers("lm", source, TEXTS)
    found, runtime = answers.in_clean_process("compressed_tensors", out, TEXTS)
    apart = float(np.abs(found - expected).max() / np.abs(expected).max())
    assert apart < 1e-3, "the embedding alone is in half precision"
    assert runtime.startswith("compressed-tensors ") and 0 < told["packed_weights"] <= 27648
    said = json.loads((out / "config.json").read_text())["quantization_config"]
    assert sum(len(group["targets"]) for group in said["config_groups"].values()) + len(said["ignore"]) == 22
    assert not list(out.glob("*.bin")) and not list(out.glob("*.pt"))


def test_words_hold_what_integers_say(tmp_path: Path) -> None:
    """An independent unpacking: eight numbers of four bits a word, the lowest first, zero in the middle."""
    from safetensors.torch import load_file

    source, out = rounded(tmp_path, {"proj": "q4_0"}), tmp_path / "out"
    out.mkdir()
    run({"student": source}, CompressedTensorsConfig(), out, 0)
    stored, (codes, _) = load_file(out / "model.safetensors"), lm.integers(source)
    for name, one in codes.items():
        words = stored[name.replace(".weight", ".weight_packed")]
        parts = torch.stack([(words >> (4 * place)) & 15 for place in range(8)], dim=-1).flatten(1) - 8
        assert torch.equal(parts, one.codes.int())


def test_what_the_format_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ShrinkError, match="no layer of the student is rounded: put a quantize stage before"):
        run({"student": decoders.folder(tmp_path / "plain")}, CompressedTensorsConfig(), tmp_path, 0)
    with pytest.raises(ShrinkError, match="x lies on q4_1, which compressed-tensors does not know: quantize to q4_0"):
        described("x.weight", grids.named("q4_1"))
