"""What every quantiser does last: the word embedding, the file, what lies beside it, and the bytes it saved."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks import progress
from tasks.quantize.embedding import Bits, quantize_embedding


def finish(proto: Any, bits: Bits, source: Path, out: Path) -> dict[str, Any]:
    """Quantise the word embedding of a proto, write it to `out` with the sidecars of `source`; the bytes of both."""
    from tasks.export.onnx import copy_sidecars, save

    progress.report(1, 2, "embedding")
    measured: dict[str, Any] = dict(quantize_embedding(proto, bits))
    save(proto, out / "model.onnx")
    copy_sidecars(source, out)
    before, after = ((path / "model.onnx").stat().st_size for path in (source, out))
    progress.report(2, 2, f"{before} to {after} bytes")
    return {"bytes_before": before, "bytes_after": after, **measured}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """ONNX Runtime's quantisers write their advice to the root logger: none of it below an error meanwhile."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
