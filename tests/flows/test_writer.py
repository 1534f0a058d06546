"""Writing with a model: what comes piece by piece is the whole, and what cannot be asked is refused first."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows import writer
from registry.records import ShrinkError
from tasks.generate.runtime import Opened, open_model
from tests.tasks.generate import decoders

LETTERS = [byte for text in ("naïve ", "日本", " ok") for byte in text.encode()]


def spelling(ends: int = len(LETTERS)) -> Opened:
    """A model that says these bytes one after the other, a token each."""

    def stream(ids: list[int], most: int) -> Iterator[int]:
        yield from LETTERS[: min(most, ends)]

    return Opened(
        ids=lambda text: list(text.encode()),
        text=lambda ids: bytes(ids).decode(errors="replace"),
        chat=lambda messages: list(messages[0]["content"].encode()),
        logits=lambda ids: pytest.fail("nothing asks for logits"),
        stream=stream,
        context=64,
    )


def test_what_is_told_piece_by_piece_is_the_whole_text() -> None:
    told: list[str] = []
    found = writer.write(spelling(), "say", raw=False, most=100, tell=told.append)
    assert "".join(told) == found["text"] == "naïve 日本 ok"
    assert all(writer.BROKEN not in one for one in told)
    assert (found["tokens"], found["prompt_tokens"], found["ids"]) == (len(LETTERS), 3, LETTERS)
    assert found["first_token_ms"] >= 0 and found["tokens_per_second"] > 0


def test_a_character_that_never_ends_is_told_as_it_stands() -> None:
    told: list[str] = []
    found = writer.write(spelling(ends=3), "say", raw=True, most=100, tell=told.append)
    assert found["text"] == "".join(told) == "na" + writer.BROKEN
    nothing = writer.write(spelling(ends=0), "say", raw=True, most=100, tell=told.append)
    assert nothing["text"] == "" and nothing["tokens_per_second"] is None and nothing["first_token_ms"] is None


def test_a_real_model_goes_on_and_a_prompt_beyond_its_context_is_refused(tmp_path: Path) -> None:
    model = open_model(decoders.folder(tmp_path / "lm"), "transformers")
    found: dict[str, Any] = writer.write(model, "the quick", raw=True, most=5, tell=lambda new: None)
    assert found["ids"] == list(model.stream(model.ids("the quick"), 5))
    with pytest.raises(ShrinkError, match="but the model reads 512: shorten it"):
        writer.write(model, "fox " * 500, raw=True, most=5, tell=lambda new: None)


def test_a_model_that_does_not_write_and_an_unknown_runtime_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"task": "embed"}')
    with pytest.raises(ShrinkError, match="the model is for task embed and writes nothing"):
        writer.opened(tmp_path, "transformers", 1)
    with pytest.raises(ShrinkError, match="runtime is 'onnx' but must be one of: auto, transformers, llama_cpp"):
        writer.chosen("onnx")
