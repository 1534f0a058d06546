"""What each stage of models that write would take at 1B and 8B weights: measured layers of those shapes, and sums.

Run: python -m benchmarks.scale TEACHER DATA [--work .shrink/scale]   # half an hour of one core; writes scale.md
(TEACHER, DATA: a finished run's folders of SmolLM2-135M, a language model, and of its rows.) One layer of each shape,
with random weights, goes through what the stages do to a layer, in a process of its own on one thread; the stages
themselves run on the teacher, which says how far the sums are off. Interrupted, it goes on behind what it has measured.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.decoders import held
from benchmarks.scale_shown import SHAPES, Shape, page
from tasks.generate import gptq, grids, walk
from tasks.kinds import EveryStage, function_of
from tasks.quantize import gptq as by_gptq
from tasks.quantize import rtn as by_rtn

PAGE = Path(__file__).with_suffix(".md")
BLOCKS, LENGTH = 8, 256  # of calibration text that go through the layers here
ROWS = 4096  # of a table that are rounded here
GRID = "q5_0"
STAGES: dict[str, dict[str, Any]] = {  # run whole on the teacher
    "adopt/decoder": {"kind": "adopt", "method": "decoder"},
    "correct": {"kind": "correct", "steps": 2},
    "label/top_k": {"kind": "label", "method": "top_k", "windows": 16},
    "prune/depth": {"kind": "prune", "method": "depth", "keep": 24},
    "prune/width": {"kind": "prune", "method": "width", "ffn": 1024},
    "prune/grouped": {"kind": "prune", "method": "grouped", "kv_heads": 1},
    "prune/merges": {"kind": "prune", "method": "merges"},
    "prune/sparse": {"kind": "prune", "method": "sparse"},
    "quantize/rtn": {"kind": "quantize", "method": "rtn", "grid": GRID},
    "quantize/gptq": {"kind": "quantize", "method": "gptq", "grid": GRID},
    "quantize/awq": {"kind": "quantize", "method": "awq", "grid": GRID},
    "export/gguf": {"kind": "export", "method": "gguf"},
}


def clocked(work: Callable[[], Any]) -> tuple[float, Any]:
    """Processor seconds that some work takes, and what it gives."""
    start = time.process_time()
    found = work()
    return time.process_time() - start, found


def a_layer(shape: Shape) -> dict[str, float]:
    """What one layer of a shape takes: seconds of each part for all tokens, MB at most beside its weights."""
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.initialization import no_init_weights

    torch.manual_seed(0)
    config = LlamaConfig(
        **{"hidden_size": shape.width, "intermediate_size": shape.neurons, "num_attention_heads": shape.queries},
        **{"num_key_value_heads": shape.groups, "head_dim": shape.head, "num_hidden_layers": 1, "vocab_size": 512},
    )
    with no_init_weights():
        model = LlamaForCausalLM(config).eval()
    for name, weight in model.named_parameters():
        torch.nn.init.ones_(weight) if "norm" in name else torch.nn.init.normal_(weight, std=0.02)
    (layer,) = walk.layers_of(model)
    hidden, caught = walk.start(model, torch.randint(512, (BLOCKS, LENGTH)), BLOCKS)
    walk.give_back()
    before = held()
    chosen = dict.fromkeys(walk.linears_of(layer), grids.named(GRID))
    told = {"weights": float(sum(one.numel() for one in layer.parameters()))}
    told["forward"], _ = clocked(lambda: walk.given(layer, hidden[0], caught[0]))
    told["sums"], sums = clocked(lambda: walk.sums(layer, hidden, caught[0]))
    told["nearest"], _ = clocked(lambda: by_rtn.layer(layer, chosen, None, None))
    told["gptq"], _ = clocked(lambda: by_gptq.layer(layer, chosen, sums, None))
    return told | {"memory_mb": held("VmHWM") - before}


def a_table(shape: Shape) -> dict[str, float]:
    """What ROWS of an embedding or head take: seconds of LENGTH tokens' logits, of rounding to nearest, of GPTQ."""
    torch.manual_seed(0)
    rows, read = torch.randn(ROWS, shape.width), torch.randn(4 * shape.width, shape.width)
    sums, grid = read.T @ read, grids.named(GRID)
    told = {"logits": clocked(lambda: read[:LENGTH] @ rows.T)[0]}
    told["nearest"] = clocked(lambda: grids.nearest(rows, grid))[0]
    told["factor"] = clocked(lambda: gptq.factor(sums))[0]
    told["gptq"] = clocked(lambda: gptq.quantize(rows, sums, grid))[0] - told["factor"]
    return told


def a_stage(name: str, teacher: Path, data: Path, out: Path) -> dict[str, Any]:
    """What a whole stage takes on the teacher: seconds, MB above its imports, what it measured."""
    import transformers.models.llama.modeling_llama  # noqa: F401, before the memory is read

    config = EveryStage.validate_python(STAGES[name])
    run, inputs = function_of(config), {role: data if role == "data" else teacher for role in config.reads}
    out.mkdir(parents=True)
    Path("/proc/self/clear_refs").write_text("5")  # what the imports held at most is forgotten
    before = held()
    seconds, measured = clocked(lambda: run(inputs, config, out, 0))
    shutil.rmtree(out)
    return {"seconds": seconds, "memory_mb": held("VmHWM") - before, "measured": measured}


def measured(what: str, at: argparse.Namespace) -> dict[str, Any]:
    """One measurement, in a process of its own."""
    given = [str(at.teacher), str(at.data), "--work", str(at.work), "--one", what]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.scale", *given], check=True, stdout=subprocess.PIPE, text=True
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Run the command described above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, default=Path(".shrink/scale"))
    parser.add_argument("--one", help=argparse.SUPPRESS)  # a measurement alone, in this process
    said = parser.parse_args()
    torch.set_num_threads(1)
    if said.one is not None:
        kind, _, name = said.one.partition(" ")
        if kind == "stage":
            found = a_stage(name, said.teacher, said.data, said.work / "out")
        else:
            found = (a_layer if kind == "layer" else a_table)(SHAPES[name])
        print(json.dumps(found))
        return
    said.work.mkdir(parents=True, exist_ok=True)
    kept = said.work / "measured.json"
    lines: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    wanted = [f"stage {name}" for name in STAGES] + [f"{kind} {one}" for one in SHAPES for kind in ("table", "layer")]
    for what in wanted:
        if what not in lines:
            lines[what] = measured(what, said)
            kept.write_text(json.dumps(lines, indent=1) + "\n")
            print(what, json.dumps(lines[what]), flush=True)
    PAGE.write_text(page(lines, BLOCKS * LENGTH, ROWS, LENGTH), encoding="utf-8")


if __name__ == "__main__":
    main()
