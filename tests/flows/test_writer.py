"""Answers of a model that writes: in whole characters as they come, conversations that fit, what is refused."""

import io
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows import named, writer
from registry.records import ShrinkError
from tasks.generate import lm, parts, runtime
from tests.tasks.generate import decoders

TEXTS = ["the quick brown fox", "naïve café, 東京 🙂👍🏽 and the evil queen", "é", "\n\n  the\tlazy dog \n"]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> runtime.Opened:
    return runtime.open_model(decoders.folder(tmp_path_factory.mktemp("writes") / "lm"), "transformers")


def saying(opened: runtime.Opened, text: str) -> runtime.Opened:
    """The model, but that it always writes the same text."""
    return opened._replace(stream=lambda ids, most: iter(opened.ids(text)[:most]))


@pytest.mark.parametrize("text", TEXTS)
def test_parts_are_whole_characters_and_together_the_text(opened: runtime.Opened, text: str) -> None:
    ids = opened.ids(text)
    found = list(parts.parts(opened.text, [], ids))
    assert "".join(found) == text and not any(parts.REPLACED in part for part in found)
    assert len(found) > 1 or len(text) == 1
    assert len(ids) > len(text.split())  # several tokens a word: bytes are told apart


def test_parts_of_any_tokens_are_what_they_are_decoded_to(opened: runtime.Opened) -> None:
    chance = random.Random(0)
    for _ in range(50):
        ids = [chance.randrange(2, 280) for _ in range(40)]  # mostly no UTF-8
        assert "".join(parts.parts(opened.text, [], ids)) == opened.text(ids)


def test_each_part_comes_before_the_next_token_is_written(opened: runtime.Opened) -> None:
    given: list[int] = []

    def tokens() -> Iterator[int]:
        for token in opened.ids("the quick fox"):
            given.append(token)
            yield token

    lengths = [len(given) for _ in parts.parts(opened.text, [], tokens())]
    assert lengths == list(range(1, len(given) + 1))


def test_a_word_that_a_prompt_begins_goes_on_without_losing_its_blank() -> None:
    words = ["in", "▁the", "▁wood", "s"]  # a decoder that drops the blank of the first word, as SentencePiece's do

    def text(ids: list[int]) -> str:
        return "".join(words[one] for one in ids).replace("▁", " ").removeprefix(" ")

    assert list(parts.parts(text, [0, 1], [2, 3])) == [" wood", "s"]
    assert list(parts.parts(text, [], [2, 3])) == ["wood", "s"]


def test_an_answer_is_the_models_own_and_counted(opened: runtime.Opened) -> None:
    for raw in (True, False):
        ids = writer.asked(opened, "the quick", raw)
        assert ids == (opened.ids("the quick") if raw else opened.chat([{"role": "user", "content": "the quick"}]))
        shown: list[str] = []
        found = writer.answered(opened, ids, 6, shown.append, raw)
        assert found.ids == list(opened.stream(ids, 6)) and found.prompt_tokens == len(ids)
        assert "".join(shown) == found.text
        assert found.first_token_ms and found.first_token_ms > 0
        assert found.tokens_per_second and found.tokens_per_second > 0
    silent = writer.answered(saying(opened, ""), ids, 6, shown.append)
    assert silent == writer.Answer("", [], len(ids), None, None)


def test_a_prompt_without_room_for_an_answer_is_refused_before_anything_is_computed(opened: runtime.Opened) -> None:
    count = len(opened.ids("dog " * 512))
    with pytest.raises(ShrinkError, match=rf"the prompt has {count} tokens but the model reads 512, its answer incl"):
        writer.asked(opened, "dog " * 512, raw=True)
    assert len(parts.fitting([2] * 511, 512)) == 511
    with pytest.raises(ShrinkError, match="the prompt has 512 tokens"):
        parts.fitting([2] * 512, 512)


def talk(
    opened: runtime.Opened, lines: list[str], most: int, as_json: bool = False, lasting: bool = False
) -> writer.Writer:
    who = writer.Writer(opened, "transformers", "tiny-writer", "3")
    writer.conversation(who, lines, most, as_json, lasting)
    return who


def recording(opened: runtime.Opened, text: str) -> tuple[runtime.Opened, list[list[str]]]:
    """The model that writes one text, and the contents of each conversation that it answered."""
    asked: dict[tuple[int, ...], list[str]] = {}
    seen: list[list[str]] = []

    def chat(messages: list[dict[str, str]]) -> list[int]:
        ids = opened.chat(messages)
        asked[tuple(ids)] = [one["content"] for one in messages]
        return ids

    def stream(ids: list[int], most: int) -> Iterator[int]:
        seen.append(asked[tuple(ids)])
        return iter(opened.ids(text)[:most])

    return opened._replace(chat=chat, stream=stream), seen


def test_a_conversation_is_kept(opened: runtime.Opened, capsys: pytest.CaptureFixture[str]) -> None:
    model, seen = recording(opened, "the dog")
    talk(model, ["one", "two"], 20)
    assert seen == [["one"], ["one", "the dog", "two"]]
    assert capsys.readouterr() == ("the dog\nthe dog\n", "")


def test_the_oldest_exchanges_are_forgotten_and_that_is_said(
    opened: runtime.Opened, capsys: pytest.CaptureFixture[str]
) -> None:
    model, seen = recording(opened, "ok")
    long = "fox " * 90
    per = len(opened.ids(long))
    assert 512 - 20 < 3 * per < 3 * 512  # two of them and their answers fit, three do not
    talk(model, [f"{long}{number}" for number in "abcd"], 20)
    assert [one[-1][-1] for one in seen] == list("abcd")
    assert all(len(opened.chat([{"role": "user", "content": text} for text in one])) <= 512 - 20 for one in seen)
    assert all(len(one) % 2 == 1 for one in seen) and len(seen[-1]) < 7  # whole exchanges
    said = capsys.readouterr().err.splitlines()
    assert said and all("forgotten: the model reads 512 tokens)" in line for line in said)


def test_a_question_that_is_too_long_ends_piped_input_alone(
    opened: runtime.Opened, capsys: pytest.CaptureFixture[str]
) -> None:
    model, seen = recording(opened, "ok")
    lines = ["one", "dog " * 600, "two"]
    with pytest.raises(ShrinkError, match="but the model reads 512"):
        talk(model, lines, 20)
    assert seen == [["one"]]
    capsys.readouterr()
    talk(model, lines, 20, lasting=True)
    assert seen[1:] == [["one"], ["one", "ok", "two"]]
    out, err = capsys.readouterr()
    assert out == "ok\nok\n" and err.count("\n") == 1 and "shorten it" in err and "dog" not in err


def test_answers_as_json_are_an_object_a_line(opened: runtime.Opened, capsys: pytest.CaptureFixture[str]) -> None:
    talk(saying(opened, "é 🙂"), ["one", "two"], 20, as_json=True)
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert set(first) == {
        "text", "ids", "tokens", "prompt_tokens", "first_token_ms", "tokens_per_second", "runtime", "model", "version",
    }  # fmt: skip
    assert (first["text"], first["tokens"], first["version"]) == ("é 🙂", len(first["ids"]), "3")
    assert second["prompt_tokens"] > first["prompt_tokens"]


@pytest.mark.parametrize("end", ["", "\n", "  \t\nnever read\n"])
def test_lines_are_read_to_an_empty_one_or_the_end(monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"one\n two \n{end}"))
    assert list(writer.typed(by_hand=False)) == ["one", "two"]


def test_input_that_is_no_utf8_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for errors in ("strict", "surrogateescape"):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9\n"), "utf-8", errors))
        with pytest.raises(ShrinkError, match="standard input is no UTF-8; convert it"):
            list(writer.typed(by_hand=False))


def test_which_runtime_is_meant(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "gguf").mkdir()
    (tmp_path / "gguf" / runtime.MODEL).touch()
    installed: dict[str, Any] = {"llama_cpp": object()}
    monkeypatch.setattr(writer, "find_spec", installed.get)
    monkeypatch.setattr("tasks.extras.find_spec", installed.get)
    assert writer.chosen("auto", tmp_path / "gguf") == "llama_cpp"
    assert writer.chosen("auto", tmp_path) == writer.chosen("transformers", tmp_path / "gguf") == "transformers"
    writer.checked("llama_cpp")
    installed.clear()
    assert writer.chosen("auto", tmp_path / "gguf") == "transformers"
    with pytest.raises(ShrinkError, match=r"llama_cpp is not installed: .*\[llama-cpp\].*, or take --runtime trans"):
        writer.checked("llama_cpp")
    with pytest.raises(ShrinkError, match="runtime is 'vllm' but must be one of: auto, transformers, llama_cpp"):
        writer.checked("vllm")


def test_auto_takes_transformers_where_llama_cpp_refuses(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def opening(directory: Path, name: runtime.Runtime, threads: int) -> Any:
        if name == "llama_cpp":
            raise ShrinkError("no such kind of model.")
        return "opened"

    monkeypatch.setattr(writer, "open_model", opening)
    monkeypatch.setattr(writer, "find_spec", lambda name: object())
    (tmp_path / runtime.MODEL).touch()
    assert writer.opened_by("auto", tmp_path, 1)[0] == "transformers"
    assert capsys.readouterr().err == "not in llama.cpp: no such kind of model.\n"
    with pytest.raises(ShrinkError, match=r"no such kind of model\."):
        writer.opened_by("llama_cpp", tmp_path, 1)


def test_a_version_is_opened_by_its_task(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = decoders.folder(tmp_path / "model")
    monkeypatch.setattr(named, "fetched", lambda model, home: ("3", tmp_path))
    monkeypatch.setattr("flows.settings.apply", lambda environment: None)
    with pytest.raises(ShrinkError, match=r"'tiny' does not write, its task is classify: ask it with .shrink predict"):
        writer.fetched("tiny", "auto", 1, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"task": "generate"}))
    found = writer.fetched("tiny@champion", "auto", 1, tmp_path)
    assert writer.introduced(found) == "tiny version 3 in transformers"
    assert found.opened.ids("the fox") == lm.load_tokenizer(folder)("the fox")["input_ids"]
