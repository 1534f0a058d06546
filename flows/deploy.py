"""A server that answers with what an alias names: `shrink deploy MODEL`, or MODEL@ALIAS.

Two loops look after it: one compares the alias with what is loaded (flows/serve/serving.py), one looks after the
processes and lets a new version take over step by step (flows/serve/guarding.py). Killed, the next start goes on
with the same version.
"""

import contextlib
import logging
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flows.serve import guarding
from flows.serve.api import application, example
from flows.serve.lanes import Slot
from flows.serve.rollout import Options
from flows.serve.serving import log, reconcile
from flows.servers import client
from flows.settings import settings
from registry.records import ShrinkError

GUARD_SECONDS = 0.25


def serve(
    name: str,
    alias: str = "champion",
    host: str = "127.0.0.1",
    port: int = 8080,
    poll_seconds: float = 2.0,
    cache: Path | None = None,
    threads: int = 1,
    options: Options | None = None,
    token: str | None = None,
) -> None:
    """Serve the alias until interrupted; versions are kept in `cache` (default: deployed/ in the state directory).

    Raises ShrinkError when the port cannot be had.
    """
    if poll_seconds <= 0:
        raise ShrinkError(f"poll_seconds is {poll_seconds:g}; give a number of seconds above 0.")
    form = "%(asctime)s %(levelname)s %(message)s"
    logging.basicConfig(level=logging.WARNING, format=form, force=True)  # Prefect's import leaves a silent set-up
    log.setLevel(logging.INFO)
    holder = listening(host, port)
    slot, address = Slot(name=name, alias=alias, options=options or Options()), f"http://{host}:{port}"
    kept = (cache if cache is not None else settings().home / "deployed") / f"port-{port}"  # each server has its own
    log.info("%s@%s on %s, GET /healthz; Ctrl-C ends it", name, alias, address)
    try:
        with looked_after(slot, kept, threads, poll_seconds, address, token is not None):
            server(slot, token).run(sockets=[holder])
    except KeyboardInterrupt:
        log.info("stopped")
    finally:
        holder.close()


@contextlib.contextmanager
def looked_after(
    slot: Slot, kept: Path, threads: int, poll_seconds: float, address: str, bearer: bool
) -> Iterator[None]:
    """Both loops run in threads of their own within the block; behind it every process of a version has ended."""
    registry, stop, ended = client(), threading.Event(), threading.Event()

    def follow() -> None:
        told = None
        while not stop.is_set():
            reconcile(registry, slot, kept, threads)
            if (lane := slot.serving) is not None and lane.served.version != told:
                told = lane.served.version
                log.info("ask it with: %s", example(lane.served, address, bearer))
            stop.wait(poll_seconds)
        ended.wait()  # what was started by this thread dies with it

    def watch() -> None:
        while not stop.wait(GUARD_SECONDS):
            guarding.guard(slot, kept, threads)
        guarding.end(slot)
        ended.set()

    for loop in (follow, watch):
        threading.Thread(target=loop, name=loop.__name__, daemon=True).start()
    try:
        yield
    finally:
        stop.set()
        ended.wait(15)


def server(slot: Slot, token: str | None) -> Any:
    """The HTTP server over a slot."""
    import uvicorn

    config = uvicorn.Config(
        application(slot, token),
        limit_concurrency=1024,  # connections; how many are answered at a time says flows/serve/doorway.py
        timeout_graceful_shutdown=10,
        log_level="warning",
        access_log=False,
    )
    return uvicorn.Server(config)


def listening(host: str, port: int) -> socket.socket:
    """A socket bound to the port, taken before anything is loaded; raises ShrinkError when it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sends at once (TCP_NODELAY) only where the protocol is named: else every answer waits 40 ms for an ACK
    holder = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        holder.bind((host, port))
        holder.listen(1)  # SO_REUSEADDR alone lets two bind; only one listens
    except (OSError, OverflowError) as error:
        holder.close()
        reason = getattr(error, "strerror", None) or error
        raise ShrinkError(f"port = {port} cannot be listened on ({reason}); give another with --port.") from None
    return holder
