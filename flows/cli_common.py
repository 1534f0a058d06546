"""What the modules of the command share: the --json option, printing, failing, the servers, the nearest known name."""

import contextlib
import difflib
import json
import os
import sys
from typing import Annotated, Any, NoReturn

import typer

from flows import console as screen
from flows.settings import apply, base_environment, settings
from registry.records import ShrinkError

Json = Annotated[bool, typer.Option("--json", help="print JSON instead of text")]
RunId = Annotated[str | None, typer.Argument(help="run id, or a part of it (default: the newest that fits)")]
QUIET = {  # stage logs go to Prefect's server; the terminal shows our own lines
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "tasks,flows,registry",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",
}


def say(value: Any, as_json: bool, text: str) -> None:
    """Print JSON or text."""
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False) if as_json else text)


def fail(sentence: str, code: int) -> NoReturn:
    """End the command: the sentence on standard error and, with --json, one JSON object on standard output.

    The object also names the run that this command began and left unfinished, and what goes on with it.
    """
    typer.echo(screen.fitted(f"shrink: {sentence}", screen.errors), err=True)
    words = sys.argv[1:]
    if "--json" in words[: words.index("--")] if "--" in words else "--json" in words:  # the arguments may not parse
        run = unfinished()
        resumable = {"run": run, "resume": f"shrink resume {run}"} if run else {}
        typer.echo(json.dumps({"error": sentence, "exit_code": code} | resumable, indent=1, ensure_ascii=False))
    sys.exit(code)


def first_line(error: BaseException) -> str:
    """What an exception says, in one line."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


def unfinished() -> str | None:
    """The run that this process worked on and did not finish."""
    from flows.journal import UNFINISHED, alive, read_all

    with contextlib.suppress(ShrinkError, OSError):  # a setting may be what failed
        for journal in reversed(read_all(settings().home)):
            open_still = journal["status"] in {*UNFINISHED, "running"}  # running: a full disk took its last word
            if journal["pid"] == os.getpid() and alive(journal) and open_still:
                return str(journal["run_id"])
    return None


def connected(start: bool = False) -> Any:
    """The servers (started when asked), with this process's libraries pointed at them."""
    from infra import services

    home = settings().home
    if start:
        services.up(home, base_environment())
    from flows.servers import services as found

    got = found(home)
    apply(services.environment(got, home) | QUIET, services.FOREIGN)
    return got


def require(model: str, version: bool = True) -> None:
    """Refuse a MODEL, MODEL@ALIAS or MODEL@VERSION that the registry does not know, naming the nearest.

    With version=False only the model has to be there: its alias may be set later.
    """
    from flows.servers import client
    from registry import contents, listing, versions

    name, wanted = contents.split_name(model)
    found = listing.models(client())
    if name not in found:
        hint = nearest(name, sorted(found), "registered are") or "`shrink run` makes the first one."
        raise ShrinkError(f"model '{name}' is not registered; {hint}")
    if not version or versions.alias(client(), name, wanted) is not None:
        return
    made = {int(one.version): one.tags for one in client().search_model_versions(f"name = '{name}'")}
    numbers = sorted(made, reverse=True)
    if wanted.isdecimal():
        if len(wanted) > 9 or int(wanted) not in numbers:
            have = ", ".join(map(str, numbers[:12])) or "none"
            raise ShrinkError(f"model {name} has no version '{wanted}'; its versions are: {have}.")
        return
    hint = nearest(wanted, sorted(found[name].aliases or {}), "its aliases are")
    if made and not hint and all(tags.get(versions.VERDICT_TAG) == versions.REJECTED for tags in made.values()):
        newest = f"{name}@{numbers[0]}"
        raise ShrinkError(
            f"model {name} has no alias '{wanted}': {newest} was rejected; `shrink why {newest}` says why."
        )
    newest = f"its newest version is {name}@{numbers[0]}." if numbers else "it has no versions."
    raise ShrinkError(f"model {name} has no alias '{wanted}'; {hint or newest}")


def nearest(wrong: str, known: list[str], otherwise: str) -> str:
    """The nearest known name as a question, else all of them; nothing when none is known."""
    near = difflib.get_close_matches(wrong, known, n=1)
    if near:
        return f"did you mean '{near[0]}'?"
    return f"{otherwise}: {', '.join(known[:12])}." if known else ""
