"""What others make of the same decoder, beside ours: bytes, bits, perplexity on the same windows, time and memory.

Run: python -m benchmarks.writers TEACHER DATA [WAY …] --gguf F16.gguf [--files NAME=FILE.gguf …] [--oneshot PYTHON]
(TEACHER, DATA: a finished run's folders of the teacher, a language model, and of its rows; F16.gguf: the teacher's
export.) llama.cpp's own quantizer makes its files of F16.gguf (extra `llama-cpp`), with an importance matrix of the
same calibration text where a way says so, NNCF its int4 graph for OpenVINO (extra `openvino`), llm-compressor its GPTQ
W4A16 by PYTHON, an interpreter of an environment that has it: it asks for other versions than ours. Each way runs in a
process of its own; memory is what it held at most above its imports. Perplexity is per token, of test documents in
windows of 256 tokens, every model's weights as the numbers they mean.
"""

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.decoders import LENGTH, held
from tasks.data import read_rows
from tasks.generate import gguf_fit, gguf_read, llama_quantize, llama_types, lm, measures, text
from tasks.quantize.llama_cpp import LlamaCppConfig, importance_of

QUANTIZER: dict[str, tuple[llama_types.Name, bool]] = {  # its type, and whether inputs count by their size
    "llama.cpp Q8_0": ("Q8_0", False),
    "llama.cpp Q5_K_M": ("Q5_K_M", False),
    "llama.cpp Q5_0": ("Q5_0", False),
    "llama.cpp Q4_K_M": ("Q4_K_M", False),
    "llama.cpp Q4_K_M with importance": ("Q4_K_M", True),
    "llama.cpp IQ4_NL": ("IQ4_NL", False),
    "llama.cpp IQ4_NL with importance": ("IQ4_NL", True),
    "llama.cpp Q4_0": ("Q4_0", False),
}
OPENVINO, ONESHOT = "OpenVINO int4", "llm-compressor GPTQ W4A16"
WAYS = (*QUANTIZER, OPENVINO, ONESHOT)
BLOCKS, SEED = 32, 0  # of calibration text, LENGTH tokens each, as ours by default
Logits = Callable[[Tensor], Tensor]


def windows(teacher: Path, data: Path, count: int) -> list[Tensor]:
    """The windows [1, tokens] of the first test documents that make so many."""
    tokenizer = lm.load_tokenizer(teacher)
    found: list[Tensor] = []
    for document in text.documents(tokenizer, [row["text"] for row in read_rows(data, "test")], LENGTH):
        found += [one[one >= 0][None] for one in document.windows]
        if len(found) >= count:
            break
    return found


def perplexity(logits: Logits, read: list[Tensor]) -> float:
    """Of a model that gives logits [1, tokens, pieces] of ids [1, tokens]."""
    with torch.no_grad():
        seen = [measures.read(logits(one), one) for one in read]
    return math.exp(sum(one.nats for one in seen) / sum(one.tokens for one in seen))


def by_torch(model: Any) -> Logits:
    """The logits of a model of transformers."""
    return lambda ids: model(input_ids=ids, use_cache=False).logits


def of_file(file: Path, read: list[Tensor]) -> dict[str, Any]:
    """A GGUF file's bytes, bits and perplexity."""
    model, _ = gguf_read.model_and_tokenizer(file)
    return {
        "bytes": file.stat().st_size,
        "bits": gguf_fit.bits_per_weight(file),
        "perplexity": perplexity(by_torch(model), read),
    }


def quantizer(way: str, at: argparse.Namespace, out: Path) -> dict[str, Any]:
    """llama.cpp's own quantizer, by our importance matrix where the way asks for one."""
    name, weighed = QUANTIZER[way]
    before, start, file = held(), time.process_time(), out / "model.gguf"
    config = LlamaCppConfig(type=name, calibration_blocks=BLOCKS, calibration_length=LENGTH)
    inputs = {"student": at.teacher, "data": at.data}
    importance = importance_of(inputs, config, SEED) if weighed else None
    llama_quantize.quantize(at.gguf, file, name, importance, at.threads, lambda done, of: None)
    return {"seconds": time.process_time() - start, "memory_mb": held("VmHWM") - before, "file": str(file)}


def openvino(at: argparse.Namespace, out: Path, read: list[Tensor]) -> dict[str, Any]:
    """NNCF's data-free 4-bit weights in groups of 64 (tables stay in 8 bits), run by OpenVINO in float32."""
    import nncf
    import numpy as np
    import openvino as ov

    before, start = held(), time.process_time()
    model = lm.load(at.teacher)
    model.config.use_cache = False
    graph = ov.convert_model(model, example_input={"input_ids": read[0]})
    small = nncf.compress_weights(graph, mode=nncf.CompressWeightsMode.INT4_SYM, group_size=64, ratio=1.0)
    ov.save_model(small, out / "model.xml", compress_to_fp16=True)
    told = {"seconds": time.process_time() - start, "memory_mb": held("VmHWM") - before}
    parameters = sum(one.numel() for one in lm.own_weights(model).values())
    del model, graph, small
    ready = ov.Core().compile_model(out / "model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    size = (out / "model.bin").stat().st_size

    def logits(ids: Tensor) -> Tensor:
        return torch.from_numpy(np.array(ready({"input_ids": ids.numpy()})[0]))

    return told | {"bytes": size, "bits": 8 * size / parameters, "perplexity": perplexity(logits, read)}


def oneshot(at: argparse.Namespace, out: Path, read: list[Tensor]) -> dict[str, Any]:
    """llm-compressor's GPTQ on the same calibration blocks, in its own environment, and judged there."""
    tokenizer = lm.load_tokenizer(at.teacher)
    texts = [row["text"] for row in read_rows(at.data, "train")]
    told = {
        "model": str(at.teacher), "out": str(out), "threads": at.threads, "windows": [one[0].tolist() for one in read],
        "calibration": text.blocks(tokenizer, texts, LENGTH, BLOCKS, SEED).tolist(),
    }  # fmt: skip
    (out / "told.json").write_text(json.dumps(told))
    script = Path(__file__).parent / "oneshot.py"
    done = subprocess.run([at.oneshot, script, out / "told.json"], check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def one(way: str, at: argparse.Namespace) -> dict[str, Any]:
    """One way in this process."""
    torch.set_num_threads(at.threads)
    out = at.work / way.replace(" ", "-")
    out.mkdir(parents=True, exist_ok=True)
    read = windows(at.teacher, at.data, at.windows)
    files = dict(pair.split("=", 1) for pair in at.files)
    if way == "teacher":
        return {"perplexity": perplexity(by_torch(lm.load(at.teacher)), read)}
    if way in files:
        return of_file(Path(files[way]), read)
    if way in QUANTIZER:
        made = quantizer(way, at, out)
        return made | of_file(Path(made["file"]), read)
    return openvino(at, out, read) if way == OPENVINO else oneshot(at, out, read)


def told(at: argparse.Namespace, way: str) -> dict[str, Any]:
    """The same in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.writers", *sys.argv[1:], "--only", way]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Make every way that is named (all that can be, unless some are) and print its line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("ways", nargs="*", metavar="WAY", help=f"of: {', '.join(WAYS)}")
    parser.add_argument("--gguf", type=Path, required=True, help="the teacher's F16 file")
    parser.add_argument("--files", nargs="*", default=[], metavar="NAME=FILE", help="finished files to judge, too")
    parser.add_argument("--oneshot", help="an interpreter that has llm-compressor")
    parser.add_argument("--windows", type=int, default=46)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path(".shrink/writers"))
    parser.add_argument("--only", help=argparse.SUPPRESS)  # one way, in this process
    at = parser.parse_args()
    if at.only:
        print(json.dumps(one(at.only, at)))
        return
    whole = told(at, "teacher")["perplexity"]
    print("| | MB | bits a weight | perplexity a token | over the teacher's | processor s | MB above imports |")
    print("|---|---|---|---|---|---|---|")
    print(f"| teacher | | 32 | {whole:.2f} | | | |", flush=True)
    chosen = at.ways or [way for way in WAYS if way != ONESHOT or at.oneshot]
    for way in (*(pair.split("=", 1)[0] for pair in at.files), *chosen):
        found = told(at, way)
        cost = f"{found['seconds']:.0f} | {found['memory_mb']:.0f}" if "seconds" in found else " | "
        over = 100 * (found["perplexity"] / whole - 1)
        print(
            f"| {way} | {found['bytes'] / 1e6:.1f} | {found['bits']:.2f} | {found['perplexity']:.2f} | {over:+.1f} % "
            f"| {cost} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
