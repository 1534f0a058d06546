"""Libraries that only some stages need: asked for before anything starts, with the command that installs them."""

from importlib.util import find_spec

from registry.records import ShrinkError


def require(library: str, where: str = "") -> None:
    """Raise ShrinkError when an extra is not installed; `where` names the stage that asks for it."""
    if find_spec(library) is None:
        raise ShrinkError(
            f"{where}{library} is not installed: `pip install 'shrinking-frontier[{library}]'`, or drop the stage."
        )
