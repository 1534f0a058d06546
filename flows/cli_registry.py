"""The commands on registered models: `shrink show | why | predict`."""

from typing import Annotated

import typer

from flows import console as screen
from flows.cli_common import Json, connected, require, say
from flows.settings import settings
from registry.records import ShrinkError, is_unicode

Model = Annotated[str, typer.Argument(help="MODEL@ALIAS or MODEL@VERSION, such as sentiment@champion")]


def show(model: Model, as_json: Json = False) -> None:
    """A registered version: verdict, retention, bytes, latency, footprint, stages."""
    connected()
    require(model)
    from flows.outcome import describe

    facts = describe(model)
    aliases = f" ({', '.join(facts['aliases'])})" if facts["aliases"] else ""
    lines = [f"{facts['model']} version {facts['version']}{aliases}, digest {facts['digest'][:16]}"]
    say(facts, as_json, "\n".join([*lines, screen.sentence(facts), *screen.verdict_lines(facts["verdict"])]))


def why(
    model: Annotated[str, typer.Argument(help="MODEL (its newest verdict here), MODEL@ALIAS or MODEL@VERSION")],
    as_json: Json = False,
) -> None:
    """The verdict on a model, each check with its numbers."""
    from flows.journal import read_all

    judged = [run for run in read_all(settings().home) if run["recipe"] == model and run["verdict"]]
    if judged:
        verdict, of = judged[-1]["verdict"], f"version {judged[-1]['version']}, run {judged[-1]['run_id']}"
    else:
        connected()
        require(model)
        from flows.outcome import describe

        facts = describe(model)
        verdict, of = facts["verdict"], f"version {facts['version']}"
    name = model.partition("@")[0]
    lines = [f"{name} {of}", *screen.verdict_lines(verdict)]
    say({"model": name, "of": of} | verdict, as_json, "\n".join(lines))


def predict(
    model: Model,
    texts: Annotated[list[str], typer.Argument(help="sentences, each quoted")],
    as_json: Json = False,
) -> None:
    """Predict with a registered version, fetched and verified."""
    for number, text in enumerate(texts, start=1):
        if not text.strip():
            raise ShrinkError(f"text {number} is {text!r}; give some words to classify.")
        if not is_unicode(text):
            raise ShrinkError(f"text {number} is {text!r} but no UTF-8; convert it.")
    connected()
    require(model)
    from flows.outcome import predictions

    found = predictions(model, texts, settings().home)
    say(found, as_json, "\n".join(f"{one['label']:10} {one['score']:.3f}  {one['text']}" for one in found))
