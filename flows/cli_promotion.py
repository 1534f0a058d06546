"""The commands on a model's ledger: `shrink promote | rollback | approve | reject | history | reconcile`."""

from typing import Annotated

import typer

from flows import console as screen
from flows.cli_common import Json, connected, require, say
from registry.ledger import Entry
from registry.records import ShrinkError, has_text, is_unicode

Version = Annotated[str, typer.Argument(help="MODEL@VERSION or MODEL@ALIAS")]
Model = Annotated[str, typer.Argument(help="MODEL")]
Reason = Annotated[str, typer.Option(help="why, in a sentence; it stays in the ledger")]
MOST = 500  # characters of a reason


def promote(
    model: Version,
    reason: Reason,
    force: Annotated[bool, typer.Option("--force", help="although it was rejected; the ledger says so")] = False,
    as_json: Json = False,
) -> None:
    """Make a version the champion, admitted once more as the registry gives it; the ledger keeps who and why.

    Exit code 3: it was refused at its admission, and nothing was changed.
    """
    opened(model, reason)
    from flows.promote import promote as act
    from registry.patience import patiently

    ended = patiently(act, model, reason, force)
    if ended.entry is None:
        said = f"REFUSED, nothing was promoted: {ended.refused}"
        say({"model": model, "refused": ended.refused, "exit_code": 3}, as_json, screen.fitted(said))
        raise typer.Exit(3)
    if ended.before and not as_json:
        entry = ended.entry
        of = f"{entry.model} version {entry.target}"
        typer.echo(screen.fitted(f"{of} is champion already, since {entry.when}; nothing was to be done"))
        return
    tell(ended.entry, as_json)


def rollback(model: Model, reason: Reason, as_json: Json = False) -> None:
    """Return to the champion before this one."""
    opened(model, reason, version=False)
    from flows.promote import rollback as act
    from registry.patience import patiently

    tell(patiently(act, model, reason), as_json)


def approve(model: Version, reason: Reason, as_json: Json = False) -> None:
    """Say that a version may be promoted: these bytes, for as many hours as its gate says."""
    opened(model, reason)
    from flows.promote import approve as act
    from registry.patience import patiently

    tell(patiently(act, model, reason), as_json)


def reject(model: Version, reason: Reason, as_json: Json = False) -> None:
    """Say that a version must not be promoted, the only champion there is withdrawn; `shrink approve` takes it back."""
    opened(model, reason)
    from flows.promote import reject as act
    from registry.patience import patiently

    tell(patiently(act, model, reason), as_json)


def history(model: Model, as_json: Json = False) -> None:
    """The ledger of a model: every promotion, rollback, approval and rejection, its chain verified."""
    connected()
    require(model, version=False)
    from flows.promote import history as entries_of

    entries = entries_of(model)
    done = {entry.id for entry in entries if entry.event == "done" and entry.id}
    shown = [entry for entry in entries if entry.event == "done" or entry.id not in done]
    rows = [(*line(entry), plain(entry.who), plain(entry.why)) for entry in shown if entry.event == "done" or entry.id]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    say([entry.model_dump(mode="json") for entry in shown], as_json, "\n".join(lines) or f"{model}: nothing yet")


def plain(text: str) -> str:
    """A text of another's as it can be printed: a terminal takes orders from control characters."""
    return "".join(one if one.isprintable() else "?" for one in text)


def line(entry: Entry) -> tuple[str, str, str, str]:
    """An entry's time, action, versions and digest as a row."""
    moved = f"{entry.former or '–'} → {entry.target}" if entry.moves else entry.target
    action = f"{entry.action} (forced)" if entry.forced else entry.action
    return (
        entry.when[:19].replace("T", " "),
        action if entry.event == "done" else f"{action} (open)",
        moved,
        entry.digest[:12],
    )


def reconcile(
    model: Annotated[
        str | None, typer.Argument(help="only this model (default: all that were registered here)")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make the aliases champion, challenger and previous follow the ledger again, and finish what a kill left open."""
    connected()
    if model is not None:
        require(model, version=False)
    from flows.promote import reconcile as repaired

    found = repaired(model)
    lines = [
        f"{name}@{one.alias}: {one.was or 'none'} → {one.now or 'none'}"
        for name, moved in found.items()
        for one in moved
    ]
    facts = {name: [one._asdict() for one in moved] for name, moved in found.items()}
    say(facts, as_json, "\n".join(lines) or "all aliases follow their ledgers")


def opened(model: str, reason: str, version: bool = True) -> None:
    """Refuse a reason that says nothing and a version that is not there, with the servers connected."""
    if not has_text(reason) or not is_unicode(reason):
        raise ShrinkError(f"reason is {reason!r}; say why in a sentence.")
    if len(reason) > MOST:
        raise ShrinkError(f"reason has {len(reason)} characters but at most {MOST} are kept; say it shorter.")
    if not reason.isprintable():
        raise ShrinkError(f"reason is {reason!r} but must be one line without control characters; say it plainly.")
    if version and "@" not in model:
        raise ShrinkError(f"model is '{model}' but a version is needed; name one: {model}@3 or {model}@challenger.")
    connected()
    require(model, version=version)


def tell(entry: Entry, as_json: bool) -> None:
    """What was written, and how the aliases stand."""
    of = f"{entry.model} version {entry.target}"
    match entry.action:
        case "promote" | "rollback":
            back = f"a rollback returns to {entry.previous}" if entry.previous else "there is none to roll back to"
            said = f"{of} is champion (before: {entry.former or 'none'}); {back}"
        case "approve":
            said = f"{of} is approved until {entry.until}; `shrink promote {entry.model}@{entry.target} --reason …`"
        case _:
            gone = " and no champion any more: none is" if entry.former == entry.target else ""
            said = f"{of} is rejected{gone}; `shrink approve` takes it back"
    say(entry.model_dump(mode="json"), as_json, screen.fitted(said))
