"""The same file in llama.cpp and in transformers: the same tokens of a text, and logits that are as near as can be."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from registry.records import ShrinkError
from tasks.export import gguf
from tasks.generate import runtime
from tests.tasks.generate import decoders

pytestmark = pytest.mark.skipif(find_spec("llama_cpp") is None, reason="llama-cpp-python, an extra, is not installed")
TEXT = "the quick brown fox jumps over 12,345 lazy dogs, and naïve ones\n\n  too!"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama as a GGUF folder in half precision."""
    made = tmp_path_factory.mktemp("llama")
    decoders.folder(made / "lm")
    (made / "gguf").mkdir()
    gguf.run({"model": made / "lm"}, gguf.GgufConfig(plain="f32"), made / "gguf", 0)
    return made / "gguf"


def test_both_runtimes_cut_a_text_alike_and_give_the_same_logits(folder: Path) -> None:
    fast, plain = (runtime.open_model(folder, one) for one in ("llama_cpp", "transformers"))
    ids = fast.ids(TEXT)
    assert ids == plain.ids(TEXT) and fast.text(ids) == plain.text(ids) == TEXT
    said = [{"role": "user", "content": TEXT}]
    assert fast.chat(said) == plain.chat(said) and fast.context == plain.context
    many = (ids * 20)[:400]  # more than is read at once
    np.testing.assert_allclose(fast.logits(many), plain.logits(many), rtol=1e-2, atol=1e-2)
    np.testing.assert_allclose(
        fast.logits(many[:5]), fast.logits(many)[:5], rtol=1e-3, atol=1e-3
    )  # nothing is left over


def test_both_go_on_alike_and_longer_than_the_first_context(folder: Path) -> None:
    fast, plain = (runtime.open_model(folder, one) for one in ("llama_cpp", "transformers"))
    ids = fast.ids(TEXT)
    assert list(fast.stream(ids, 8)) == list(plain.stream(ids, 8))
    assert len(list(fast.stream((ids * 40)[:500], 100))) <= 12  # the model reads 512 tokens


def test_what_it_cannot_read_is_refused(folder: Path, tmp_path: Path) -> None:
    fast = runtime.open_model(folder, "llama_cpp")
    with pytest.raises(ShrinkError, match="the prompt has no token"):
        fast.logits([])
    with pytest.raises(ShrinkError, match="the prompt has 513 tokens but the model reads 512"):
        next(fast.stream([3] * 513, 1))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ShrinkError, match=r"llama\.cpp reads GGUF files alone"):
        runtime.open_model(tmp_path, "llama_cpp")
