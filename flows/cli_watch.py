"""The command `shrink watch`: looks at the aliases of recipes' teachers and starts what moved, until Ctrl-C."""

import json
import signal
import time
from typing import Annotated

import typer

from flows import console as screen
from flows.cli_common import Json, connected, fail, unfinished
from flows.settings import settings
from registry.records import ShrinkError

LEAST, MOST = 1.0, 86400.0


def watch(
    recipes: Annotated[list[str], typer.Argument(help="recipes whose teacher is models:/NAME@ALIAS")],
    poll: Annotated[float, typer.Option(help="seconds between looks, 1 to 86400")] = 30.0,
    as_json: Json = False,
) -> None:
    """Run a recipe whenever the alias of its teacher has moved, once for each movement; until Ctrl-C."""
    if not LEAST <= poll <= MOST:
        raise ShrinkError(f"poll is {poll:g} but must lie between {LEAST:g} and {MOST:g} seconds; change --poll.")
    if as_json:
        screen.to_stderr()  # standard output is for the JSON alone, a line a look that found something
    connected()
    from flows.watch import require

    for recipe in recipes:
        require(recipe)
    if not as_json:
        screen.tell(f"looking every {poll:g} s, until Ctrl-C")
    for sign in (signal.SIGINT, signal.SIGTERM):  # a shell may have made SIGINT ignored
        signal.signal(sign, signal.default_int_handler)
    said: dict[str, str] = {}
    try:
        while True:
            for recipe in recipes:
                one(recipe, said, as_json)
            time.sleep(poll)
    except KeyboardInterrupt:
        if run := unfinished():
            fail(f"stopped in run {run}; the next `shrink watch` goes on with it.", 1)


def one(recipe: str, said: dict[str, str], as_json: bool) -> None:
    """Look at one recipe and say what is new; an outage or a mistake is told once, and the next look tries again."""
    from flows.trouble import explained
    from flows.watch import look

    progress = screen.watch()
    try:
        found = look(recipe).model_dump()
    except Exception as error:
        found = {"recipe": recipe, "event": "trouble", "said": f"{recipe}: {explained(settings().home, error)}"}
    finally:
        progress.close()
    if said.get(recipe) != found["said"]:
        said[recipe] = found["said"]
        typer.echo(json.dumps(found)) if as_json else screen.tell(found["said"])
