"""The process that a version answers in, as its server sees it: start it, ask it, watch its memory, end it.

A version that crashes, leaks or hangs takes its own process with it and not the server's. Questions and answers are
lines of JSON on its pipes (tasks/answering.py); it dies with the server, however that ends.
"""

import base64
import contextlib
import itertools
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from concurrent.futures import TimeoutError as NoAnswer
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
from numpy.typing import NDArray

from flows.settings import serving_environment
from registry.records import ShrinkError

START_SECONDS = 300.0  # a model of gigabytes is read from a cold disk
STUCK_SECONDS = 120.0  # without a word while a question waits

Part = Callable[[str], None]


class Gone(RuntimeError):
    """The process ended before it answered."""


class Failed(RuntimeError):
    """The process could not answer, or did with what is no answer."""


class Asked(NamedTuple):
    """A question that waits: who gets the answer, and who each part of one that is being written."""

    future: "Future[dict[str, Any]]"
    part: Part | None


class Child:
    """A running process; questions may come from any thread."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process, self.gone, self.heard = process, False, time.monotonic()
        self.waiting: dict[int, Asked] = {}
        self.ready: Future[dict[str, Any]] = Future()
        self._lock, self._numbers = threading.Lock(), itertools.count(1)
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        for work in (self._write, self._read):
            threading.Thread(target=work, name="child", daemon=True).start()

    def send(self, line: dict[str, Any]) -> None:
        """Write a line without waiting for the pipe."""
        self._lines.put(json.dumps(line) + "\n")

    def ask(self, question: dict[str, Any], part: Part | None = None) -> "tuple[int, Future[dict[str, Any]]]":
        """Its number, and the answer to come; raises Gone for a process that has ended."""
        asked = Asked(Future(), part)
        with self._lock:
            if self.gone:
                raise Gone("its process has ended")
            number = next(self._numbers)
            if not self.waiting:
                self.heard = time.monotonic()
            self.waiting[number] = asked
        self.send({"id": number, **question})
        return number, asked.future

    def cancel(self, number: int) -> None:
        """Nobody waits for this answer any more."""
        self.send({"cancel": number})

    def stuck(self) -> bool:
        """Whether questions wait and nothing was heard for long."""
        return bool(self.waiting) and time.monotonic() - self.heard > STUCK_SECONDS

    def resident_mb(self) -> float:
        """Its resident memory in MB; 0 when it is gone."""
        try:
            return float(psutil.Process(self.process.pid).memory_info().rss) / 1e6
        except psutil.Error:
            return 0.0

    def kill(self) -> None:
        """End it at once; what waits raises Gone."""
        self.process.kill()

    def end(self, seconds: float = 5.0) -> None:
        """Let it answer what it was asked, then end; after that time it is killed."""
        self._lines.put(None)
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            self.process.wait()

    def _write(self) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(OSError, ValueError), self.process.stdin as pipe:
            while (line := self._lines.get()) is not None:
                pipe.write(line)
                pipe.flush()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with contextlib.suppress(OSError, ValueError), self.process.stdout as pipe:
            for line in pipe:
                self.heard = time.monotonic()
                self._told(json.loads(line))
        self.process.kill()  # it closed its pipe: nothing more will come
        self.process.wait()
        with self._lock:
            self.gone = True
            left = [*self.waiting.values()]
            self.waiting.clear()
        self._lines.put(None)
        why = f"its process ended with status {self.process.returncode}"
        for future in (self.ready, *(one.future for one in left)):
            _settle(future, Gone(why))

    def _told(self, answer: dict[str, Any]) -> None:
        number = answer.pop("id", None)
        if number is None:
            _settle(self.ready, Failed(answer["failed"]) if "failed" in answer else answer)
        elif "part" in answer:
            asked = self.waiting.get(number)
            if asked is not None and asked.part is not None:
                asked.part(answer["part"])
        else:
            with self._lock:
                done = self.waiting.pop(number)
            if "refused" in answer:
                _settle(done.future, ShrinkError(answer["refused"]))
            else:
                _settle(done.future, Failed(answer["failed"]) if "failed" in answer else answer)


def _settle(future: "Future[dict[str, Any]]", result: dict[str, Any] | Exception) -> None:
    with contextlib.suppress(InvalidStateError):  # who waited may have gone away
        if isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)


def start(directory: Path, runtime: str, threads: int, batch: int, limit_mb: float) -> Child:
    """A process that has opened a model's folder.

    Raises Failed with its reason, or when it took more than so many MB or START_SECONDS. The thread that calls this
    must live as long as the process: the kernel ends it with that thread.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "tasks.answering", str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # a library may quote a text there
        text=True,
        encoding="utf-8",
        env=serving_environment(threads),
        start_new_session=True,  # a Ctrl-C reaches only us, who let it answer first
    )
    child = Child(process)
    child.send({"open": str(directory), "runtime": runtime, "threads": threads, "batch": batch})
    try:
        within(child, child.ready, START_SECONDS, limit_mb)
    except Exception:
        child.kill()
        raise
    return child


def within(child: Child, future: "Future[dict[str, Any]]", seconds: float, limit_mb: float) -> dict[str, Any]:
    """An answer of a process that nobody watches yet; raises Failed when it takes too long or too many MB."""
    until = time.monotonic() + seconds
    while True:
        try:
            return future.result(0.05)
        except NoAnswer:
            if (held := child.resident_mb()) > limit_mb:
                raise Failed(f"it takes {held:.0f} MB, allowed are {limit_mb:.0f}; --memory-mb allows more") from None
            if time.monotonic() > until:
                raise Failed(f"it did not answer within {seconds:.0f} s") from None


def rows(answer: dict[str, Any]) -> NDArray[np.float32]:
    """The numbers of an answer to texts [texts, width]; raises Failed when one is none."""
    found = np.frombuffer(base64.b64decode(answer["rows"]), dtype="<f4").reshape(answer["shape"])
    if not np.isfinite(found).all():
        raise Failed("its answer holds what is no number")
    return found
