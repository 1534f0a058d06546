"""MatMulNBits: a graph that ONNX Runtime reads back in a clean process answers as the integers mean, with a cache too."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from transformers import AutoModelForCausalLM

from registry.records import ShrinkError
from tasks import answers
from tasks.export.matmul_nbits import MatmulNbitsConfig, run
from tasks.generate import choices, grids, lm, nbits, nbits_fit, onnx_reader, runtime
from tests.tasks.generate import decoders

TEXTS = ["the quick brown fox", "jumps over the lazy dog and the evil queen"]
EVERY = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "int2_g16", "int3_g32_zero", "int4_g16_zero", "int6_g16", "int8_g32_zero")


def rounded(at: Path, chosen: dict[str, str], family: str = "llama", **sizes: Any) -> Path:
    """A tiny decoder whose weights lie on the grids that are named by a part of their names."""
    whole = decoders.folder(at / "whole", family)
    config = decoders.config_of(family, **{"vocab_size": 288, "max_position_embeddings": 512, "head_dim": 16, **sizes})
    torch.manual_seed(1)
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, mean=0.0 if weight.ndim > 1 else 1.0, std=0.3)
    known, found = {}, {}
    for name, weight in lm.own_weights(model).items():
        for part, grid in chosen.items():
            if part in name and weight.ndim > 1:
                known[name] = grids.named(grid)
                found[name] = grids.nearest(weight, known[name])
    lm.save(at / "rounded", model, whole, found, known)
    return at / "rounded"


def exported(source: Path, out: Path, **settings: Any) -> dict[str, Any]:
    out.mkdir()
    return run({"student": source}, MatmulNbitsConfig(**settings), out, 0)


def apart(source: Path, out: Path) -> float:
    """How far the graph's logits are from those of transformers with the same rounded weights, over the largest."""
    expected = answers.answers("lm", source, TEXTS)
    found = answers.answers("matmul_nbits", out, TEXTS)
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("grid", EVERY)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_logits_are_those_of_the_rounded_weights(tmp_path: Path, grid: str, tied: bool) -> None:
    source = rounded(tmp_path, {"proj": grid, "embed": grid, "head": grid}, tie_word_embeddings=tied)
    exported(source, tmp_path / "out")
    assert apart(source, tmp_path / "out") < 2e-5
