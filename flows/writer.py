"""Writing with a registered model: `shrink generate` streams what it says as it comes.

llama.cpp writes where its extra is installed, else transformers; nothing that is asked or answered is kept.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from registry.records import ShrinkError
from tasks import extras
from tasks.generate.runtime import Opened, Runtime, open_model

BROKEN = "\N{REPLACEMENT CHARACTER}"  # ends a text whose last character is not whole yet


def chosen(name: str) -> Runtime:
    """A runtime by its name, or the fastest of those that are installed; ShrinkError where it is not."""
    if name == "auto":
        return "llama_cpp" if find_spec("llama_cpp") else "transformers"
    known: dict[str, Runtime] = {"transformers": "transformers", "llama_cpp": "llama_cpp"}
    if name not in known:
        raise ShrinkError(f"runtime is {name!r} but must be one of: auto, {', '.join(known)}.")
    if name == "llama_cpp":
        extras.require("llama_cpp", extra="llama-cpp", instead="give --runtime transformers")
    return known[name]


def opened(directory: Path, runtime: Runtime, threads: int) -> Opened:
    """The model of a version's folder; ShrinkError for one that does not write."""
    from tasks import runtime as served

    if (task := served.task(directory)) != "generate":
        ask = {"classify": "shrink predict", "embed": "shrink predict"}[task]
        raise ShrinkError(f"the model is for task {task} and writes nothing: ask it by `{ask}`.")
    return open_model(directory, runtime, threads)


def pieces(model: Opened, ids: Iterable[int]) -> Iterator[tuple[list[int], str]]:
    """All ids so far and the new text that each adds; a character that is not whole yet waits for its rest."""
    held: list[int] = []
    said = ""
    for token in ids:
        held.append(token)
        whole = model.text(held)
        if not whole.endswith(BROKEN):
            yield held, whole[len(said) :]
            said = whole
    if held and (rest := model.text(held)[len(said) :]):
        yield held, rest


def write(model: Opened, prompt: str, raw: bool, most: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """Answer a prompt (or, raw, go on with it), telling each new text; what was written and how fast.

    Raises ShrinkError, before anything is computed, for a prompt without tokens or beyond the context.
    """
    ids = model.ids(prompt) if raw else model.chat([{"role": "user", "content": prompt}])
    began = time.perf_counter()
    first, text, written = None, "", list[int]()
    for held, new in pieces(model, model.stream(ids, most)):
        first = time.perf_counter() - began if first is None else first
        text, written = text + new, held
        tell(new)
    taken = time.perf_counter() - began - (first or 0.0)
    return {
        "text": text,
        "ids": list(written),
        "tokens": len(written),
        "prompt_tokens": len(ids),
        "first_token_ms": None if first is None else first * 1e3,
        "tokens_per_second": (len(written) - 1) / taken if len(written) > 1 and taken > 0 else None,
    }
