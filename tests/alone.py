"""A page asked in Chromium by a process that has no network but loopback; `python -m tests.alone FOLDER PROFILE TEXT`.

To be run in a network namespace; prints what was seen as a JSON object.
"""

import json
import socket
import sys
from pathlib import Path

from tests import chromium

STATE = "(document.body?.dataset.state ?? 'loading') !== 'loading' && document.body.dataset.state"
LABELS = "[...document.querySelectorAll('.label span:last-child')].map(e => e.textContent)"


def main(folder: Path, profile: Path, text: str) -> None:
    """Open the folder's page, type a text, and tell labels, the page's own check and which interfaces there are."""
    try:
        socket.create_connection(("192.0.2.1", 80), timeout=5).close()
        outside = "reached"
    except OSError as error:
        outside = type(error).__name__ if error.errno is None else str(error.strerror)
    with chromium.opened_folder(folder, profile) as (page, url, stop):
        state = page.until(STATE)
        stop()
        page.type("#text", text)
        page.until("document.getElementById('spent').textContent")
        seen = {
            "state": state,
            "labels": page.value(LABELS),
            "check": json.loads(page.value("document.getElementById('check').dataset.result")),
            "others": [one for one in page.asked() if not one.startswith(url)],
        }
    names = [name for _, name in socket.if_nameindex()]
    print(json.dumps({**seen, "interfaces": names, "outside": outside}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
