"""A small server that always answers with the version behind an alias: `shrink deploy MODEL`, or MODEL@ALIAS.

A loop compares the alias with what is loaded. A new version is fetched, hashed against its digest, opened and asked the
golden texts of its evaluation; only then does it replace the old one, in one assignment. A version that fails keeps the
old one serving, or, just after a start, brings the alias `previous` back; /healthz says why. Requests in flight finish
with the version they began with.
"""

import logging
import socket
import threading
from pathlib import Path

from flows.api import application, example
from flows.servers import client
from flows.serving import Slot, log, reconcile
from flows.settings import settings
from registry.records import ShrinkError


def serve(
    name: str,
    alias: str = "champion",
    host: str = "127.0.0.1",
    port: int = 8080,
    poll_seconds: float = 2.0,
    cache: Path | None = None,
    threads: int = 1,
) -> None:
    """Serve the alias until interrupted; versions are kept in `cache` (default: deployed/ in the state directory).

    Raises ShrinkError when the port cannot be had.
    """
    import uvicorn

    if poll_seconds <= 0:
        raise ShrinkError(f"poll_seconds is {poll_seconds:g}; give a number of seconds above 0.")
    form = "%(asctime)s %(levelname)s %(message)s"
    logging.basicConfig(level=logging.WARNING, format=form, force=True)  # Prefect's import leaves a silent set-up
    log.setLevel(logging.INFO)
    holder = listening(host, port)
    slot, stop = Slot(name=name, alias=alias), threading.Event()
    registry, kept = client(), cache if cache is not None else settings().home / "deployed"

    def follow() -> None:
        told = None
        while not stop.is_set():
            reconcile(registry, slot, kept, threads)
            if slot.serving is not None and slot.serving.version != told:
                told = slot.serving.version
                log.info("ask it with: %s", example(slot.serving, f"http://{host}:{port}"))
            stop.wait(poll_seconds)

    config = uvicorn.Config(
        application(slot, threads),
        limit_concurrency=64,
        timeout_graceful_shutdown=10,
        log_level="warning",
        access_log=False,
    )
    log.info("%s@%s on http://%s:%d, GET /healthz; Ctrl-C ends it", name, alias, host, port)
    threading.Thread(target=follow, name="follow", daemon=True).start()
    try:
        uvicorn.Server(config).run(sockets=[holder])
    except KeyboardInterrupt:
        log.info("stopped")
    finally:
        stop.set()
        holder.close()


def listening(host: str, port: int) -> socket.socket:
    """A socket bound to the port, taken before anything is loaded; raises ShrinkError when it cannot be had."""
    holder = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        holder.bind((host, port))
        holder.listen(1)  # SO_REUSEADDR alone lets two bind; only one listens
    except (OSError, OverflowError) as error:
        holder.close()
        reason = getattr(error, "strerror", None) or error
        raise ShrinkError(f"port = {port} cannot be listened on ({reason}); give another with --port.") from None
    return holder
