"""From a request to the version that answers it: a share for a canary, copies for a shadow, once more where it died.

Copies of live requests stay in memory, and what is kept of them is whether the two versions agreed and how long they
took. Predictions change nothing, so that a request in flight at a process that ended is asked again.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from concurrent.futures import Future
from typing import Any, NamedTuple

import numpy as np
from fastapi import HTTPException
from numpy.typing import NDArray

from flows.serve.child import Failed, Gone, Part, rows
from flows.serve.lanes import Lane, Slot
from flows.serve.rollout import LEAST_AGREEMENT
from registry.records import ShrinkError

ANSWER_SECONDS, WRITE_SECONDS = 60.0, 600.0  # in which an answer must be there
RETURN_SECONDS = 20.0  # that a request waits for a version's process to be up again
COPIES = 16  # that wait at a shadow; more requests than that are not copied
ALIKE = 0.9  # cosine of two embeddings of a text that count as the same
BUSY = {"Retry-After": "1"}

Question = dict[str, Any]
Answer = dict[str, Any]


class Copy(NamedTuple):
    """A question that a shadow was asked, too, and what it writes."""

    shadow: Lane
    future: "Future[Answer]"
    said: list[str]


def chosen(slot: Slot) -> Lane | None:
    """The version that is to answer the next request."""
    with slot.lock:
        candidate = slot.candidate
        if slot.phase == "canary" and candidate is not None and not candidate.child.gone:
            slot.share += slot.options.canary
            if slot.share >= 1:
                slot.share -= 1
                return candidate
        return slot.serving


async def standing(slot: Slot) -> Lane:
    """The version in place, once its process is up; 503 where nothing is served, or it does not come up."""
    until = time.monotonic() + RETURN_SECONDS
    while (lane := slot.serving) is not None and lane.child.gone and time.monotonic() < until:
        await asyncio.sleep(0.02)
    if lane is None:
        raise HTTPException(503, "no version is loaded yet; /healthz says why", BUSY)
    if lane.child.gone:
        raise HTTPException(503, "the version's process ended and is not up again yet", BUSY)
    return lane


async def answered(slot: Slot, lane: Lane, question: Question) -> tuple[Lane, Answer]:
    """The answer, and the version that gave it; 503 where its process ended or failed twice."""
    waiting = asyncio.ensure_future(tried(slot, lane, question))
    await asyncio.sleep(0)  # the live question goes first
    copied = copy(slot, question)
    lane, answer = await waiting
    if copied is not None:
        compare(slot, copied, lane, answer)
    return lane, answer


async def tried(slot: Slot, lane: Lane, question: Question, part: Part | None = None) -> tuple[Lane, Answer]:
    """Ask a version, and where its process ends or fails the one in place, once."""
    seconds = ANSWER_SECONDS if "texts" in question else WRITE_SECONDS
    for again in (False, True):
        try:
            number, found = lane.ask(question, part)
            try:
                answer = await asyncio.wait_for(asyncio.wrap_future(found), seconds)
            except (TimeoutError, asyncio.CancelledError):
                lane.child.cancel(number)
                raise
            if "rows" in answer:
                answer["rows"] = rows(answer)
            return lane, answer
        except TimeoutError:
            lane.tally.note(None)
            raise HTTPException(503, f"no answer within {seconds:.0f} s", BUSY) from None
        except (Gone, Failed) as error:
            if again:
                raise HTTPException(503, f"version {lane.served.version} could not answer: {error}", BUSY) from None
            lane = await standing(slot)
    raise AssertionError


def copy(slot: Slot, question: Question) -> Copy | None:
    """Ask the shadow the same, or while a version is watched the one before it, for its times at the same moment.

    Unless it has not answered enough of the others yet.
    """
    with slot.lock:
        shadow = {"shadow": slot.candidate, "watch": slot.former}.get(slot.phase or "")
        if shadow is None or slot.copies >= (COPIES if "texts" in question else 1):
            return None
        try:
            said = list[str]()
            _, future = shadow.ask(question, said.append)
        except Gone:
            return None
        slot.copies += 1

    def over(done: "Future[Answer]") -> None:
        with slot.lock:
            slot.copies -= 1

    future.add_done_callback(over)
    return Copy(shadow, future, said)


def compare(slot: Slot, copied: Copy, lane: Lane, answer: Answer) -> None:
    """Count whether the shadow agrees, as soon as it has answered."""
    shadow = copied.shadow

    def count(done: "Future[Answer]") -> None:
        error = done.exception()
        if isinstance(error, Gone | ShrinkError):
            return
        same = error is None and agrees(lane, answer, shadow, {**done.result(), "text": "".join(copied.said)})
        with slot.lock:
            if slot.candidate is shadow and slot.phase == "shadow":
                slot.compared += 1
                slot.agreed += same

    copied.future.add_done_callback(count)


def agrees(lane: Lane, answer: Answer, shadow: Lane, other: Answer) -> bool:
    """Whether two versions answer a request alike: four fifths of its texts, or the first word of what they write."""
    if lane.served.task != shadow.served.task:
        return False
    if "rows" not in answer:
        return str(answer["text"]).split()[:1] == str(other["text"]).split()[:1]
    try:
        found = rows(other)
    except Failed:
        return False
    return bool(alike(lane, answer["rows"], shadow, found).mean() >= LEAST_AGREEMENT)


def alike(lane: Lane, ours: NDArray[np.float32], shadow: Lane, theirs: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Text by text, whether two versions say the same: the labels, or vectors in the same direction."""
    if lane.served.task == "embed":
        if ours.shape != theirs.shape:
            return np.zeros(len(ours), dtype=bool)
        norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
        return np.asarray((ours * theirs).sum(axis=1) >= ALIKE * norms)
    names = [said(one.served.config, found) for one, found in ((lane, ours), (shadow, theirs))]
    return np.array([one == two for one, two in zip(*names, strict=True)])


def said(config: dict[str, Any], logits: NDArray[np.float32]) -> list[frozenset[str]]:
    """The labels that logits stand for, by name: another version may list them in another order."""
    labels = config["labels"]
    if config.get("multi_label"):
        return [frozenset(name for name, value in zip(labels, row, strict=True) if value > 0) for row in logits]
    return [frozenset({labels[int(row.argmax())]}) for row in logits]


async def streamed(slot: Slot, lane: Lane, question: Question) -> AsyncIterator[Answer]:
    """The parts {"text"} of what is written, then {"done"}; who goes away ends the writing.

    A process that ends before its first part is asked again; later {"error"} says so.
    """
    loop, parts = asyncio.get_running_loop(), asyncio.Queue[str | None]()

    def part(text: str) -> None:
        loop.call_soon_threadsafe(parts.put_nowait, text)

    for again in (False, True):
        try:
            number, found = lane.ask(question, part)
        except Gone:
            lane = await standing(slot)
            continue
        found.add_done_callback(lambda done: loop.call_soon_threadsafe(parts.put_nowait, None))
        begun = False
        try:
            while (text := await parts.get()) is not None:
                begun = True
                yield {"text": text, "version": lane.served.version}
            yield {"done": found.result(), "version": lane.served.version}
            return
        except (Gone, Failed) as error:
            if begun or again:
                yield {"error": f"version {lane.served.version} could not go on: {error}"}
                return
            lane = await standing(slot)
        finally:
            if not found.done():
                lane.child.cancel(number)
