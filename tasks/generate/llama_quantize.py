"""Has llama.cpp's own quantizer (llama-cpp-python, an extra) make one GGUF file of another, by an importance matrix."""

import contextlib
import ctypes
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.generate.llama_types import TYPES

Importance = Mapping[str, NDArray[np.float32]]  # by GGUF's name of a tensor, a number of each input of its rows
ERROR = 4  # llama.cpp's level of what it logs


def quantize(
    source: Path, out: Path, name: str, importance: Importance | None, threads: int, tell: Callable[[int, int], None]
) -> None:
    """Write `out` of a file of plain numbers; RuntimeError with llama.cpp's own words when it cannot.

    The bytes do not depend on the number of threads; `tell` hears how many of the tensors are begun.
    """
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = TYPES[name].number, threads
    entries = listed(importance or {})
    if importance:
        params.imatrix = entries
    with heard(tell) as errors:
        failed = llama_cpp.llama_model_quantize(str(source).encode(), str(out).encode(), params)
    if failed:
        said = " ".join(" ".join(errors).split())[:300] or f"its code {failed}"
        raise RuntimeError(f"llama.cpp could not make {name} of '{source.name}': {said}")


def listed(importance: Importance) -> Any:
    """The array of structures that llama.h asks for, ended by one without a name; it keeps what it points to alive."""
    import llama_cpp

    entries = (llama_cpp.llama_model_imatrix_data * (len(importance) + 1))()
    entries.kept = [np.ascontiguousarray(values, dtype=np.float32) for values in importance.values()]
    for entry, name, values in zip(entries, importance, entries.kept, strict=False):
        entry.name, entry.size = name.encode(), values.size
        entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    return entries


@contextlib.contextmanager
def heard(tell: Callable[[int, int], None]) -> Iterator[list[str]]:
    """While this lasts llama.cpp prints nothing: its errors are collected, its count of tensors is told."""
    import llama_cpp
    from llama_cpp import _logger

    errors: list[str] = []

    def hear(level: int, text: bytes, data: Any) -> None:
        line = text.decode(errors="replace")
        if level == ERROR:
            errors.append(line)
        elif found := re.match(r"\[\s*(\d+)/\s*(\d+)\]", line):
            tell(int(found[1]), int(found[2]))

    callback = llama_cpp.llama_log_callback(hear)
    llama_cpp.llama_log_set(callback, ctypes.c_void_p(0))
    try:
        yield errors
    finally:
        llama_cpp.llama_log_set(_logger.llama_log_callback, ctypes.c_void_p(0))
