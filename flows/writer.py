"""Asks a registered model that writes: an answer to a prompt, or a conversation, shown as it is written.

What a user types and what the model answers is neither logged nor written to a file.
"""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from flows import settings
from registry.records import ShrinkError, has_text, is_unicode
from tasks import extras
from tasks.generate.parts import fitting, parts
from tasks.generate.runtime import MODEL, Opened, Runtime, open_model

Wanted = Literal["auto", "transformers", "llama_cpp"]
NAMES: dict[Runtime, str] = {"transformers": "transformers", "llama_cpp": "llama.cpp"}


class Writer(NamedTuple):
    """An opened version, and which one it is."""

    opened: Opened
    runtime: Runtime
    model: str
    version: str


class Answer(NamedTuple):
    """What was written to a prompt of so many tokens, and how fast: the speed is of the tokens behind the first."""

    text: str
    ids: list[int]
    prompt_tokens: int
    first_token_ms: float | None
    tokens_per_second: float | None


def checked(runtime: str) -> None:
    """Refuse a runtime that there is not, or that is not installed."""
    if runtime not in get_args(Wanted):
        raise ShrinkError(f"runtime is '{runtime}' but must be one of: {', '.join(get_args(Wanted))}.")
    if runtime == "llama_cpp":
        extras.require("llama_cpp", instead="take --runtime transformers")


def chosen(runtime: str, directory: Path) -> Runtime:
    """The runtime that is meant; `auto` is llama.cpp where its extra is installed and the folder a GGUF file's."""
    match runtime:
        case "transformers" | "llama_cpp":
            return runtime
        case _:
            return "llama_cpp" if find_spec("llama_cpp") and (directory / MODEL).is_file() else "transformers"


def fetched(model: str, runtime: str, threads: int | None, home: Path) -> Writer:
    """A registered version, verified and opened; raises ShrinkError for a model that does not write."""
    from flows import named
    from tasks.runtime import task

    version, directory = named.fetched(model, home)
    folder = directory / "model"
    if (what := task(folder)) != "generate":
        raise ShrinkError(f"model '{model}' does not write, its task is {what}: ask it with `shrink predict`.")
    settings.apply(settings.HUB)  # before transformers is imported
    found, opened = opened_by(runtime, folder, threads or settings.settings().threads)
    return Writer(opened, found, named.split_name(model)[0], version)


def opened_by(runtime: str, directory: Path, threads: int) -> tuple[Runtime, Opened]:
    """A folder opened, and the runtime; `auto` takes transformers, and says why, where llama.cpp refuses the folder."""
    found = chosen(runtime, directory)
    try:
        return found, open_model(directory, found, threads)
    except ShrinkError as error:
        if runtime != "auto" or found == "transformers":
            raise
        opened = open_model(directory, "transformers", threads)
        note(f"not in {NAMES[found]}: {error}")
        return "transformers", opened


def introduced(writer: Writer) -> str:
    """Which version answers by which runtime."""
    return f"{writer.model} version {writer.version} in {NAMES[writer.runtime]}"


def facts(writer: Writer, answer: Answer) -> dict[str, Any]:
    """An answer as it is printed with --json."""
    which = {"runtime": writer.runtime, "model": writer.model, "version": writer.version}
    return {**answer._asdict(), "tokens": len(answer.ids), **which}


def asked(opened: Opened, prompt: str, raw: bool) -> list[int]:
    """The ids of a prompt: of a conversation that begins with it or, raw, of the text itself.

    Raises ShrinkError when the context has no room for an answer.
    """
    return fitting(opened.ids(prompt) if raw else opened.chat([{"role": "user", "content": prompt}]), opened.context)


def answered(opened: Opened, ids: list[int], most: int, show: Callable[[str], None], raw: bool = False) -> Answer:
    """Write at most so many tokens; `show` gets each part of the text at once. Raw goes on within the prompt's text."""
    begun, ticks = time.perf_counter(), list[float]()
    written, said = list[int](), list[str]()

    def clocked() -> Iterator[int]:
        for token in opened.stream(ids, most):
            ticks.append(time.perf_counter())
            written.append(token)
            yield token

    for part in parts(opened.text, ids if raw else [], clocked()):
        show(part)
        said.append(part)
    spent = ticks[-1] - ticks[0] if len(ticks) > 1 else 0.0
    first = 1e3 * (ticks[0] - begun) if ticks else None
    return Answer("".join(said), written, len(ids), first, (len(ticks) - 1) / spent if spent else None)


def shortened(opened: Opened, messages: list[dict[str, str]], most: int) -> tuple[list[dict[str, str]], list[int]]:
    """A conversation without the oldest exchanges that leave no room for an answer of so many tokens, and its ids.

    An answer is kept room for in half of the context at the most. Raises ShrinkError when the last question alone is
    too long.
    """
    room = opened.context - min(most, opened.context // 2)
    while len(ids := opened.chat(messages)) > room and len(messages) > 1:
        messages = messages[2:]
    return messages, fitting(ids, opened.context)


def conversation(writer: Writer, questions: Iterable[str], most: int, as_json: bool, lasting: bool) -> None:
    """Answer one question after the other on standard output, with --json an object a line.

    A question that is too long ends it, unless it is `lasting`: then that is said and the conversation goes on.
    """
    opened, held = writer.opened, list[dict[str, str]]()
    for question in questions:
        try:
            kept, ids = shortened(opened, [*held, {"role": "user", "content": question}], most)
        except ShrinkError as error:
            if not lasting:
                raise
            note(f"shrink: {error}")
            continue
        if dropped := (len(held) + 1 - len(kept)) // 2:
            oldest = "oldest exchange is" if dropped == 1 else f"{dropped} oldest exchanges are"
            note(f"(the {oldest} forgotten: the model reads {opened.context} tokens)")
        answer = answered(opened, ids, most, unseen if as_json else show)
        show(f"{json.dumps(facts(writer, answer), ensure_ascii=False)}\n" if as_json else "\n")
        held = [*kept, {"role": "assistant", "content": answer.text}]


def typed(by_hand: bool) -> Iterator[str]:
    """The lines of standard input up to an empty one, or its end; with a prompt where somebody types them."""
    if by_hand:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  # input() edits lines with it, and takes longer ones
    while True:
        try:
            line = input("> ") if by_hand else sys.stdin.readline()
        except EOFError:
            return
        except UnicodeDecodeError:
            raise ShrinkError("standard input is no UTF-8; convert it.") from None
        if not has_text(line):
            return
        if not is_unicode(line):
            raise ShrinkError("standard input is no UTF-8; convert it.")
        yield line.strip()


def show(part: str) -> None:
    """Print a part of a text at once."""
    sys.stdout.write(part)
    sys.stdout.flush()


def unseen(part: str) -> None:
    """Print nothing: with --json the whole answer comes at its end."""


def note(line: str) -> None:
    """Print a line beside the answers."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
