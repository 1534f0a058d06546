"""Speed, memory and size of models: text in, logits out, one thread, so tokenising counts too.

Models take turns on every text, so that whatever else loads the machine hits all of them alike. Peak memory is read
in a clean process: `python -m tasks.bench DIRECTORY`. Multiply-adds and parameters are counted on the ONNX graph.
"""

import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tasks import pairs

Call = Callable[[Sequence[pairs.Text]], Any]
TEXT = "An evening that promised little turned out to be warm, clever and far too short."
PRODUCTS = ("MatMul", "Gemm", "MatMulInteger", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "MatMulNBits")


def caller(directory: Path, threads: int = 1) -> Call:
    """A function from texts to logits for an ONNX artifact or a floor; loading happens here, not in the call."""
    if not (directory / "model.onnx").is_file():
        from tasks import floor
        from tasks.embed import static

        if static.is_one(directory):
            model = static.load(directory)
            return lambda texts: static.vectors(model, [str(text) for text in texts])
        weights = floor.load(directory)
        one = floor.score if "coef" in weights[1] else floor.entries  # an embedding recipe's floor has vectors alone
        return lambda texts: [one(weights, text) for text in texts]
    from tasks import runtime

    running, encoder = runtime.session(directory, threads), runtime.tokenizer(directory)

    def call(texts: Sequence[pairs.Text]) -> Any:
        return running.run(None, runtime.feeds([encoder.encode(*pairs.parts(text)).ids for text in texts]))[0]

    return call


def latency(calls: dict[str, Call], texts: Sequence[pairs.Text], rounds: int = 200) -> dict[str, tuple[float, float]]:
    """p50 and p95 in milliseconds of one text a call; the models take turns, and the first of them changes."""
    names = list(calls)
    taken: dict[str, list[float]] = {name: [] for name in names}
    warm = min(10, rounds)
    gc.collect()
    for turn in range(-warm, rounds):
        text = [texts[turn % len(texts)]]
        for step in range(len(names)):
            name = names[(turn + step) % len(names)]
            start = time.perf_counter()
            calls[name](text)
            spent = time.perf_counter() - start
            if turn >= 0:
                taken[name].append(spent * 1e3)
    return {name: (float(np.percentile(t, 50)), float(np.percentile(t, 95))) for name, t in taken.items()}


def throughput(
    calls: dict[str, Call], texts: Sequence[pairs.Text], batch: int = 32, rounds: int = 8
) -> dict[str, float]:
    """Texts a second in batches: the median over rounds in which the models take turns on the same batch."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(-1, rounds):
        part = [texts[(max(turn, 0) * batch + place) % len(texts)] for place in range(batch)]
        for name, call in calls.items():
            start = time.perf_counter()
            call(part)
            if turn >= 0:
                taken[name].append(time.perf_counter() - start)
    return {name: batch / float(np.median(spent)) for name, spent in taken.items()}


def peak_rss_mb(directory: Path) -> float | None:
    """Peak resident memory in MB of a clean process that loads the model and answers; None when it failed."""
    root = str(Path(__file__).resolve().parents[1])
    code = "import sys; sys.path.insert(0, sys.argv[2]); from tasks.bench import main; main()"
    command = [sys.executable, "-c", code, str(directory), root]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode != 0:
        return None
    return float(json.loads(done.stdout.strip().splitlines()[-1])["peak_rss_mb"])


def own_peak_mb() -> float:
    """Peak resident memory of this process in MB, without what the parent had before the program was loaded."""
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20) if sys.platform == "darwin" else peak / 1024


def parameters(directory: Path) -> int:
    """Weights of a model, packed ones counted singly; scales, zero points and shape constants are not counted."""
    if not (directory / "model.onnx").is_file():
        from safetensors.numpy import load_file

        files = [directory / name for name in ("weights.safetensors", "model.safetensors")]
        return sum(int(value.size) for file in files if file.is_file() for value in load_file(file).values())
    import onnx

    graph = onnx.load(directory / "model.onnx").graph
    packed = {node.input[1]: _packed(node) for node in graph.node if node.op_type == "MatMulNBits"}
    skip = {name for node in graph.node if node.op_type == "MatMulNBits" for name in node.input[2:]}
    kinds = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.INT8, onnx.TensorProto.UINT8}
    total = 0
    for tensor in graph.initializer:
        size = int(np.prod(tensor.dims, dtype=np.int64))
        aside = tensor.name in skip or tensor.name.endswith(("_scale", "_zero_point"))
        if aside or tensor.data_type not in kinds or not tensor.dims:
            continue
        total += packed.get(tensor.name, size * 2 if tensor.name.endswith("_int4") else size)
    return total


def _packed(node: Any) -> int:
    held = {item.name: item.i for item in node.attribute}
    return int(held["K"] * held["N"])


def macs(directory: Path, tokens: int | None = None) -> int | None:
    """Multiply-adds of the matrix products for one text of max_length tokens (or `tokens`); None without a graph."""
    if not (directory / "model.onnx").is_file():
        return None
    import onnx
    import onnxruntime

    from tasks import runtime

    proto = onnx.load(directory / "model.onnx")
    nodes = [node for node in proto.graph.node if node.op_type in PRODUCTS]
    fixed = {tensor.name: tuple(tensor.dims) for tensor in proto.graph.initializer}
    wanted = sorted({name for node in nodes for name in (*node.input[:2], *node.output[:1])} - set(fixed))
    given = {item.name for item in (*proto.graph.output, *proto.graph.input)}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted if name not in given)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    probe = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    length = tokens or int(runtime.settings(directory)["max_length"])
    values = probe.run(wanted, runtime.feeds([[1] * length])) if wanted else []
    shapes = fixed | {name: tuple(value.shape) for name, value in zip(wanted, values, strict=True)}
    return sum(_product(node, shapes) for node in nodes)


def _product(node: Any, shapes: dict[str, tuple[int, ...]]) -> int:
    """Multiply-adds of one product: every number of its output is a sum over the inner length."""
    held = {item.name: item.i for item in node.attribute}
    first = shapes[node.input[0]]
    inner = first[0] if node.op_type == "Gemm" and held.get("transA") else first[-1]
    return int(np.prod(shapes[node.output[0]], dtype=np.int64)) * int(inner)


def measure(directories: dict[str, Path], texts: Sequence[pairs.Text], rounds: int = 200) -> dict[str, dict[str, Any]]:
    """Latency, throughput, peak memory, multiply-adds and parameters of several models on the same texts."""
    calls = {name: caller(path) for name, path in directories.items()}
    times, speed = latency(calls, texts, rounds), throughput(calls, texts)
    return {
        name: {
            "p50_ms": times[name][0],
            "p95_ms": times[name][1],
            "throughput": speed[name],
            "peak_rss_mb": peak_rss_mb(path),
            "macs": macs(path),
            "parameters": parameters(path),
        }
        for name, path in directories.items()
    }


def main() -> None:
    """Load the model of the directory argument, answer one text and one batch of 32, print the peak memory."""
    call = caller(Path(sys.argv[1]))
    call([TEXT])
    call([TEXT] * 32)
    sys.stdout.write(json.dumps({"peak_rss_mb": own_peak_mb()}) + "\n")


if __name__ == "__main__":
    main()
