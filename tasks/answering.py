"""The process that a deployed model answers in: `python -m tasks.answering PARENT`, started by flows/serve/child.py.

The first line on stdin says what to open, each further one is a question, a JSON object with an id; answers go to
stdout in the same way. Questions of texts that came while a batch ran go through the model together as the next one.
A text that goes on being written can be cancelled. No text is written anywhere else: what goes wrong is told by its
kind alone, because a library's own sentence may quote the text.
"""

import base64
import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from registry.records import ShrinkError
from tasks import parent

Question = dict[str, Any]
Waiting = queue.SimpleQueue[Question | None]  # None ends it
Tell = Callable[[dict[str, Any]], None]


class Model(NamedTuple):
    """What was opened: an ONNX session, or a language model and the runtime's name."""

    directory: Path
    session: Any
    writer: Any
    runtime: str
    batch: int


def main() -> None:
    """Open what the first line names, answer until stdin ends; what was asked before that is still answered."""
    parent.die_with_parent()
    if os.getppid() != int(sys.argv[1]):
        return  # the parent was killed before the kernel was asked
    tell = teller()
    try:
        model = opened(**json.loads(sys.stdin.readline()))
    except Exception as error:  # no text was seen yet, so that the whole sentence may be told
        tell({"failed": f"{type(error).__name__}: {error}"})
        return
    waiting, cancelled = Waiting(), set[int]()
    threading.Thread(target=read, args=(waiting, cancelled), daemon=True).start()
    tell({"ready": model.runtime})
    for questions in batches(waiting, model.batch):
        if "texts" in questions[0]:
            predict(model, questions, tell)
        else:
            write(model, questions[0], cancelled, tell)


def teller() -> Tell:
    """Writes a line to what was stdout; whatever a library prints goes to stderr instead."""
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def tell(answer: dict[str, Any]) -> None:
        stream.write(json.dumps(answer) + "\n")
        stream.flush()

    return tell


def opened(open: str, runtime: str, threads: int, batch: int) -> Model:
    """A model's folder opened by a runtime: onnxruntime, or one that writes."""
    directory = Path(open)
    if runtime == "onnxruntime":
        from tasks.runtime import session

        return Model(directory, session(directory, threads), None, runtime, batch)
    from tasks.generate.runtime import open_model

    return Model(directory, None, open_model(directory, runtime, threads), runtime, batch)  # type: ignore[arg-type]


def read(waiting: Waiting, cancelled: set[int]) -> None:
    """Take questions from stdin as they come, so that whoever asks never waits for a full pipe."""
    for line in sys.stdin:
        question = json.loads(line)
        if "cancel" in question:
            cancelled.add(question["cancel"])
        else:
            waiting.put(question)
    waiting.put(None)


def batches(waiting: Waiting, most: int) -> Iterator[list[Question]]:
    """Questions that wait together, up to so many texts; one to a model that writes comes alone."""
    held: Question | None = None
    while True:
        first = held if held is not None else waiting.get()
        held = None
        if first is None:
            return
        taken, count, last = [first], len(first.get("texts", ())), False
        while "texts" in first and count < most:
            try:
                following = waiting.get_nowait()
            except queue.Empty:
                break
            if following is None:
                last = True
                break
            if "texts" not in following or count + len(following["texts"]) > most:
                held = following
                break
            taken.append(following)
            count += len(following["texts"])
        yield taken
        if last:
            return


def predict(model: Model, questions: list[Question], tell: Tell) -> None:
    """Answer questions of texts in one go; when that fails one by one, so that only the culprit's fails."""
    from tasks.runtime import predict as predicted

    texts = [one if isinstance(one, str) else (one[0], one[1]) for asked in questions for one in asked["texts"]]
    begun = time.perf_counter()
    try:
        rows = predicted(model.directory, texts, batch=model.batch, opened=model.session)
    except Exception as error:
        if len(questions) == 1:
            tell({"id": questions[0]["id"], "failed": type(error).__name__})
            return
        for asked in questions:
            predict(model, [asked], tell)
        return
    spent, start = 1e3 * (time.perf_counter() - begun), 0
    for asked in questions:
        own = rows[start : start + len(asked["texts"])]
        start += len(own)
        packed = base64.b64encode(own.astype("<f4").tobytes()).decode()
        tell({"id": asked["id"], "rows": packed, "shape": own.shape, "together": len(texts), "ms": spent})


def write(model: Model, question: Question, cancelled: set[int], tell: Tell) -> None:
    """Answer a prompt part by part, or compare the golden ones; a sentence that the asker can mend is told whole."""
    number = question["id"]
    try:
        if "golden" in question:
            from tasks.generate.rewrite import difference

            tell({"id": number, "worst": difference(model.writer, json.loads(Path(question["golden"]).read_text()))})
            return
        tell({"id": number, **written(model, question, cancelled, tell)})
    except ShrinkError as error:
        tell({"id": number, "refused": f"{error}"})
    except Exception as error:
        told = f"{error}" if "golden" in question else type(error).__name__  # golden prompts are nobody's text
        tell({"id": number, "failed": told})
    finally:
        cancelled.discard(number)


def written(model: Model, question: Question, cancelled: set[int], tell: Tell) -> dict[str, Any]:
    """Tell the parts of an answer as they are written; how many tokens they were, and what was read."""
    from tasks.generate.parts import fitting, parts

    writer, number, count = model.writer, question["id"], 0
    raw = "prompt" in question
    ids = fitting(writer.ids(question["prompt"]) if raw else writer.chat(question["messages"]), writer.context)

    def tokens() -> Iterator[int]:
        nonlocal count
        for token in writer.stream(ids, question["most"]):
            if number in cancelled:
                return
            count += 1
            yield token

    for part in parts(writer.text, ids if raw else [], tokens()):
        tell({"id": number, "part": part})
    return {"tokens": count, "prompt_tokens": len(ids)}


if __name__ == "__main__":
    main()
