"""What every request passes before it is read: the token, and whether there is room; what it took is counted behind it.

/healthz may be asked by anybody, who is told whether something is served and no more.
"""

import hmac
import ipaddress
import json
import stat
import time
from pathlib import Path
from typing import Any

from flows.serve.lanes import Slot
from flows.serve.metrics import Meters
from registry.records import ShrinkError

MOST = 64  # requests that are answered at a time
FEWEST = 16  # characters of a token

Scope = dict[str, Any]


def token_of(host: str, given: str | None, file: Path | None) -> str | None:
    """The token that requests must bear; raises ShrinkError where the host needs one, or it will not do."""
    if file is not None and given is None:
        try:
            given = file.read_text(encoding="utf-8").strip()
            open_to_all = file.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH)
        except (OSError, UnicodeDecodeError) as error:
            said = getattr(error, "strerror", None) or "it is no text"
            raise ShrinkError(f"SHRINK_TOKEN_FILE is '{file}' but {said}; name a file that holds a token.") from None
        if open_to_all:
            raise ShrinkError(f"SHRINK_TOKEN_FILE is '{file}', which anybody may read; `chmod 600 {file}` first.")
        if len(given) < FEWEST or not given.isprintable():
            raise ShrinkError(f"SHRINK_TOKEN_FILE is '{file}' but holds no token of {FEWEST} characters or more.")
    if given is None and not loopback(host):
        raise ShrinkError(
            f"host is '{host}', which others can reach, but there is no token: put one of {FEWEST} characters or more "
            "in SHRINK_TOKEN, or in a file that SHRINK_TOKEN_FILE names."
        )
    return given


def loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Doorway:
    """The ASGI application around another one."""

    def __init__(self, inner: Any, slot: Slot, meters: Meters, token: str | None) -> None:
        self.inner, self.slot, self.meters = inner, slot, meters
        self.expected = None if token is None else f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Let a request in, or answer that it may not or cannot be now."""
        if scope["type"] != "http":
            await self.inner(scope, receive, send)
            return
        begun, status, asks = time.perf_counter(), 500, scope["method"] == "POST"
        scope.setdefault("state", {}).update(known=self.known(scope))

        async def counted(message: dict[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = int(message["status"])
            await send(message)

        try:
            if not scope["state"]["known"] and scope["path"] != "/healthz":
                await refuse(counted, 401, "give the token: Authorization: Bearer …", "www-authenticate", "Bearer")
            elif asks and self.slot.waiting >= MOST:
                await refuse(counted, 503, f"{MOST} requests are being answered; try again", "retry-after", "1")
            else:
                self.slot.waiting += asks
                try:
                    await self.inner(scope, receive, counted)
                finally:
                    self.slot.waiting -= asks
        finally:
            version = scope["state"].get("version", "")
            self.meters.answered(scope["path"], status, version, time.perf_counter() - begun)

    def known(self, scope: Scope) -> bool:
        """Whether a request bears the token; compared in a time that tells nothing of it."""
        if self.expected is None:
            return True
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        return hmac.compare_digest(given, self.expected)


async def refuse(send: Any, status: int, detail: str, header: str, value: str) -> None:
    """Answer without asking further."""
    headers = [(b"content-type", b"application/json"), (header.encode(), value.encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps({"detail": detail}).encode()})
