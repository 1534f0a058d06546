"""Libraries that only some stages need: asked for before anything starts, with the command that installs them."""

from importlib.util import find_spec

from registry.records import ShrinkError


def require(library: str, where: str = "", extra: str | None = None, instead: str = "drop the stage") -> None:
    """Raise ShrinkError when a library is not installed; `where` names the stage that asks for it.

    `extra` is the name of ours that it comes with, where that is not the library's own; `instead` what else helps.
    """
    if find_spec(library) is None:
        named = f"shrinking-frontier[{extra or library.replace('_', '-')}]"
        raise ShrinkError(f"{where}{library} is not installed: `pip install '{named}'`, or {instead}.")
