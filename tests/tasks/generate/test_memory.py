"""Stages that go through a decoder layer by layer hold at most one and a half times its weights above the imports."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tasks.generate import walk
from tasks.kinds import EveryStage, function_of
from tests.tasks.generate import decoders
from tests.tasks.generate.lessons import documents, tokenizer_files

BOUND = 1.5  # times the bytes of the weights in float32
PRICED = 1.7  # of a target: some windows' chances of all pieces, which are more beside so few weights (1.4 at 135M)
STATUS = Path("/proc/self/status")
SIZES = {"hidden_size": 384, "head_dim": 48, "num_attention_heads": 8, "num_key_value_heads": 4}
SIZES |= {"intermediate_size": 1024, "num_hidden_layers": 14, "vocab_size": 24_000}
CALIBRATED, SEEN = {"calibration_blocks": 8, "calibration_length": 64}, {"windows": 8, "length": 64}
STAGES: list[dict[str, Any]] = [
    {"kind": "quantize", "method": "gptq", "grid": "q4_0", **CALIBRATED},
    {"kind": "quantize", "method": "awq", "grid": "q4_0", **CALIBRATED},
    {"kind": "quantize", "method": "gptq", "target": 5.0, **CALIBRATED},
    {"kind": "prune", "method": "depth", "keep": 6, **SEEN},
    {"kind": "prune", "method": "width", "ffn": 512, **SEEN},
]


def held(what: str) -> int:
    """Bytes that this process holds (VmRSS) or held at most (VmHWM)."""
    return next(int(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith(what)) * 1024


def folder_of(folder: Path, **sizes: Any) -> Path:
    """A decoder's folder with a tokenizer of a few words."""
    folder.mkdir(parents=True)
    tokenizer_files(folder)
    decoders.build(decoders.config_of("llama", **sizes)).save_pretrained(folder)
    return folder


def child(stage: dict[str, Any], small: Path, large: Path, data: Path, out: Path) -> int:
    """Bytes at most above what is held when everything is imported: a small decoder went through before."""
    config = EveryStage.validate_python(stage)
    for student, times in ((small, 1), (large, 2)):
        out.joinpath(str(times)).mkdir(parents=True)
        walk.give_back()
        before = held("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # what was held at most is forgotten
        function_of(config)({"student": student, "data": data}, config, out / str(times), 0)
    return held("VmHWM") - before


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("memory")
    small = folder_of(folder / "small", num_hidden_layers=8, num_key_value_heads=4, intermediate_size=1024)
    return {
        "small": small,
        "large": folder_of(folder / "large", **SIZES),
        "data": documents(folder / "data", 60),
    }


@pytest.mark.skipif(not STATUS.exists(), reason="Linux tells what a process holds")
@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: "-".join(map(str, [*stage.values()][:3])))
def test_a_stage_holds_little_more_than_the_weights(
    places: dict[str, Path], tmp_path: Path, stage: dict[str, Any]
) -> None:
    given = [json.dumps(stage), *(str(places[name]) for name in ("small", "large", "data")), str(tmp_path)]
    code = f"from {__name__} import *; import sys, torch; torch.set_num_threads(1); a = sys.argv[1:]; "
    code += "print(child(json.loads(a[0]), *map(Path, a[1:])))"
    done = subprocess.run([sys.executable, "-c", code, *given], check=True, stdout=subprocess.PIPE, text=True)
    weights = (places["large"] / "model.safetensors").stat().st_size
    above = int(done.stdout.splitlines()[-1])
    assert weights > 120e6 and 0.9 * weights < above <= (PRICED if "target" in stage else BOUND) * weights
