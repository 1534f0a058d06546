"""Answers of an artifact by its own runtime: `python -m tasks.answers FORMAT DIRECTORY OUT`, texts as JSON on stdin.

Run as a process of its own it shows that an export can be read back by who knows nothing of how it was made: it imports
that runtime alone, writes the logits to OUT (.npy) and prints the runtime's name and version.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tasks.generate.runtime import AnyRuntime

Format = Literal[
    "torch",
    "packed",
    "onnx",
    "openvino",
    "executorch",
    "lm",
    "w8a8",
    "gguf",
    "llama_cpp",
    "compressed_tensors",
    "matmul_nbits",
]
LIBRARIES: dict[Format, str] = {  # others are of that name
    **{"torch": "torch", "packed": "torch", "onnx": "onnxruntime"},
    **{"lm": "transformers", "w8a8": "transformers", "gguf": "transformers", "llama_cpp": "llama_cpp_python"},
    "compressed_tensors": "compressed-tensors",
    "matmul_nbits": "onnxruntime",
}
RUNTIMES: dict[Format, AnyRuntime] = {"llama_cpp": "llama_cpp", "matmul_nbits": "onnxruntime"}  # else transformers
TOKENS = 64  # of a document at most, of which a model that writes answers each


def answers(form: Format, directory: Path, texts: Sequence[Any]) -> NDArray[np.float32]:
    """Logits or embeddings [texts, width], one unpadded text a call: dynamic int8 depends on the rest of a batch."""
    match form:
        case "torch":
            return by_torch(directory, texts)
        case "packed":
            from tasks.export import packed

            with tempfile.TemporaryDirectory() as folder:
                packed.restore(directory, Path(folder))
                encoder = (Path(folder) / "head.json").is_file()
                return by_torch(Path(folder), texts) if encoder else by_writer("lm", Path(folder), texts)
        case "onnx":
            from tasks import runtime

            return runtime.predict(directory, texts, batch=1)
        case "openvino":
            from tasks.export import openvino

            return openvino.predict(directory, texts)
        case "executorch":
            from tasks.export import executorch

            return executorch.predict(directory, texts)
        case "lm" | "w8a8" | "gguf" | "llama_cpp" | "compressed_tensors" | "matmul_nbits":
            return by_writer(form, directory, texts)


def by_writer(form: Format, directory: Path, texts: Sequence[str]) -> NDArray[np.float32]:
    """Logits [tokens, pieces] of a model that writes: each token of every document's beginning, one below the other."""
    from tasks.generate import runtime

    opened = runtime.open_model(directory, RUNTIMES.get(form, "transformers"))
    return np.concatenate([opened.logits(opened.ids(text)[:TOKENS]) for text in texts])


def by_torch(directory: Path, texts: Sequence[Any]) -> NDArray[np.float32]:
    """The answers of a torch artifact."""
    import torch

    from tasks import models, train

    model, tokenizer, _ = models.load(directory)
    with torch.inference_mode():
        found = [model(*train.pad([ids])) for ids in train.tokenize(tokenizer, texts)]
    return np.asarray(torch.cat(found).float().numpy(), dtype=np.float32)


def runtime_of(form: Format) -> str:
    """Name and version of the library that runs a format."""
    from importlib.metadata import version

    library = LIBRARIES.get(form, form)
    return f"{library} {version(library)}"


def in_clean_process(form: Format, directory: Path, texts: Sequence[Any]) -> tuple[NDArray[np.float32], str]:
    """The same in a fresh interpreter, and the runtime that gave them; raises RuntimeError with its last line."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "logits.npy"
        command = [sys.executable, "-m", "tasks.answers", form, str(directory), str(out)]
        done = subprocess.run(command, input=json.dumps(list(texts)), capture_output=True, text=True, check=False)
        if done.returncode != 0:
            said = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
            raise RuntimeError(f"the {form} export cannot be read back by its own runtime: {said[:300]}")
        return np.load(out), done.stdout.strip().splitlines()[-1]


def main() -> None:
    """The process's end of `in_clean_process`."""
    form, directory, out = sys.argv[1:]
    known: tuple[Any, ...] = get_args(Format)
    chosen: Format = known[known.index(form)]
    np.save(out, answers(chosen, Path(directory), json.load(sys.stdin)), allow_pickle=False)
    sys.stdout.write(runtime_of(chosen) + "\n")


if __name__ == "__main__":
    main()
