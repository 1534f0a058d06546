"""The commands on registered models: `shrink show | why | predict | generate | chat | bundle`."""

import itertools
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from flows import beyond, sentences, units
from flows import console as screen
from flows.cli_common import Json, connected, require, say
from flows.settings import settings
from registry.records import ShrinkError, has_text, is_unicode

Model = Annotated[str, typer.Argument(help="MODEL (its champion), MODEL@ALIAS or MODEL@VERSION")]
MaxTokens = Annotated[int, typer.Option(min=1, help="most tokens that an answer has")]
Runtime = Annotated[str, typer.Option(help="transformers, llama_cpp, or auto: llama_cpp where it is installed")]
Threads = Annotated[int | None, typer.Option(min=1, max=64, help="threads that compute (default: SHRINK_THREADS)")]


def show(model: Model, as_json: Json = False) -> None:
    """A registered version: accuracy kept, bytes, latency, verdict, footprint, stages."""
    connected()
    require(model)
    from flows.named import describe
    from flows.shown import page

    facts = describe(model)
    say(facts, as_json, screen.fitted("\n".join(page(facts))))


def why(
    model: Annotated[str, typer.Argument(help="MODEL (its newest verdict here), MODEL@ALIAS or MODEL@VERSION")],
    as_json: Json = False,
) -> None:
    """The verdict on a model, each check with its numbers, then champion, slices, behaviour and leakage."""
    from flows.journal import read_all

    here = [run for run in read_all(settings().home) if run["recipe"] == model]
    judged = [run for run in here if run["verdict"]]
    if judged:
        verdict, of = judged[-1]["verdict"], f"version {judged[-1]['version']}, run {judged[-1]['run_id']}"
        seen = judged[-1].get("evaluation") or {}
    elif here:
        raise ShrinkError(unjudged(here[-1]))
    else:
        seen, of = registered(model)
        verdict = seen["verdict"]
    name = model.partition("@")[0]
    lines = [f"{name} {of}", *sentences.verdict_lines(verdict, name)]
    if admitted := admission(judged[-1]) if judged else seen.get("admission"):
        lines.append(f"admission: {admitted}")
    told = beyond.facts(seen)
    lines += beyond.lines(told, seen.get("metric", "accuracy"))
    if judged and judged[-1] is not here[-1]:
        lines.append(f"newer, and not judged: run {here[-1]['run_id']} is {here[-1]['status']}")
    say({"model": name, "of": of, "admission": admitted} | verdict | told, as_json, screen.fitted("\n".join(lines)))


def admission(run: dict[str, Any]) -> str | None:
    """How the admission of a run's version ended, and what was left out of it; None of one that was not asked for."""
    from flows import admit
    from registry import versions

    if run.get("refused"):
        return f"{versions.REFUSED}; {run['refused']}"
    checks = [
        one for stage in run["stages"] if stage["kind"] == "reload" for one in stage["measured"].get("checks", ())
    ]
    return f"{admit.ADMITTED}; {told}" if (told := admit.left_out(checks)) else None


def unjudged(run: dict[str, Any]) -> str:
    """Why a model has no verdict yet, by its newest run, and what to type."""
    name, run_id = run["recipe"], run["run_id"]
    if run["status"] == "running":
        return f"model '{name}' has no verdict yet: run {run_id} goes on; ask again when `shrink runs` says it ended."
    return f"model '{name}' has no verdict: run {run_id} is {run['status']}; `shrink resume {run_id}` goes on with it."


def registered(model: str) -> tuple[dict[str, Any], str]:
    """The facts of a registered version, its verdict among them, and which one it is."""
    from infra.services import current

    if current(settings().home) is None:
        raise ShrinkError(f"model '{model}' is not registered, nothing was run here; `shrink run` makes one.")
    connected()
    require(model)
    from flows.named import describe

    facts = describe(model)
    return facts, f"version {facts['version']}"


def predict(
    model: Model,
    texts: Annotated[list[str], typer.Argument(help="sentences, each quoted")],
    pair: Annotated[list[str] | None, typer.Option(help="second text, one for each text, of a model of pairs")] = None,
    as_json: Json = False,
) -> None:
    """Predict with a registered version, fetched and verified; of an embedding model: which texts are alike."""
    others = pair or []
    for what, given in (("text", texts), ("pair", others)):
        for number, text in enumerate(given, start=1):
            if not has_text(text):
                raise ShrinkError(f"{what} {number} is {text!r}; give some words.")
            if not is_unicode(text):
                raise ShrinkError(f"{what} {number} is {text!r} but no UTF-8; convert it.")
    if others and len(others) != len(texts):
        raise ShrinkError(f"there are {len(texts)} texts but {len(others)} --pair; give one for each text.")
    connected()
    require(model)
    from flows.named import predictions

    found = predictions(model, texts, settings().home, others)
    say(found, as_json, "\n".join(similar(found) if "embedding" in found[0] else map(labelled, found)))


def labelled(one: dict[str, Any]) -> str:
    """A classified text, or pair, as a line: label and score, or each label with a probability over one half."""
    asked = " | ".join(one[name] for name in ("text", "pair") if name in one)
    if "labels" in one:
        scores = one["scores"]
        return f"{', '.join(f'{name} {scores[name]:.3f}' for name in one['labels']) or 'no label'}  {asked}"
    return f"{one['label']:10} {one['score']:.3f}  {asked}"


def similar(found: list[dict[str, Any]]) -> list[str]:
    """The cosine similarity of every two texts, the most alike first; of one text alone the width of its vector."""
    if len(found) == 1:
        width = len(found[0]["embedding"])
        return [f"a vector of {width} numbers (--json prints it); give more texts to see how alike they are"]
    pairs = [
        (sum(a * b for a, b in zip(one["embedding"], other["embedding"], strict=True)), one["text"], other["text"])
        for one, other in itertools.combinations(found, 2)
    ]
    return [f"{alike:6.3f}  {one}  ·  {other}" for alike, one, other in sorted(pairs, key=lambda pair: -pair[0])]


def generate(
    model: Model,
    prompt: Annotated[str, typer.Argument(help="what the model is asked, quoted")],
    raw: Annotated[bool, typer.Option("--raw", help="go on with the text itself, without the chat template")] = False,
    max_tokens: MaxTokens = 128,
    runtime: Runtime = "auto",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Let a registered version that writes answer a prompt, fetched and verified; shown as it is written."""
    if not has_text(prompt):
        raise ShrinkError(f"prompt is {prompt!r}; give some words.")
    if not is_unicode(prompt):
        raise ShrinkError(f"prompt is {prompt!r} but no UTF-8; convert it.")
    from flows import writer

    writer.checked(runtime)
    connected()
    require(model)
    found = writer.fetched(model, runtime, threads, settings().home)
    ids = writer.asked(found.opened, prompt, raw)
    writer.note(writer.introduced(found))
    answer = writer.answered(found.opened, ids, max_tokens, writer.unseen if as_json else writer.show, raw)
    say(writer.facts(found, answer), as_json, "")


def chat(
    model: Model,
    max_tokens: MaxTokens = 256,
    runtime: Runtime = "auto",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Talk with a registered version that writes, line by line; an empty line or Ctrl-D ends it. Nothing is kept."""
    from flows import writer

    writer.checked(runtime)
    connected()
    require(model)
    found = writer.fetched(model, runtime, threads, settings().home)
    writer.note(writer.introduced(found))
    by_hand = sys.stdin.isatty() and sys.stdout.isatty() and not as_json
    writer.conversation(found, writer.typed(by_hand), max_tokens, as_json, lasting=by_hand)


def bundle(
    model: Model,
    browser: Annotated[Path | None, typer.Option(help="folder to write, new or empty: a page that runs it")] = None,
    offline: Annotated[Path | None, typer.Option(help="folder to write, new or empty: a program that runs it")] = None,
    as_json: Json = False,
) -> None:
    """Write a folder in which a registered version runs in a browser or by a program, without a network."""
    from flows import bundle as bundles

    if (browser is None) == (offline is None):
        raise ShrinkError("bundle needs --browser DIR or --offline DIR, one of them; give it.")
    option, folder = ("browser", browser) if browser else ("offline", offline)
    assert folder is not None
    bundles.free(folder.absolute(), option)
    connected()
    require(model)
    from flows import keys, named
    from flows import offline as program

    number, version = named.fetched(model, settings().home)
    if option == "offline":
        made = program.write(named.split_name(model)[0], version, keys.trust(settings()), folder.absolute())
        lines = [
            f"{folder} written: {units.size(made['bytes'])}, of it {units.size(made['model'])} the model",
            f"next:   pip install -r {folder}/requirements.txt   then python {folder}/run.py TEXT",
        ]
    else:
        made = bundles.browser(version, number, folder.absolute(), settings().home)
        lines = [
            f"{folder} written: {units.size(made['bytes'])}, of it {units.size(made['model'])} the model and "
            f"{units.size(made['runtime'])} what runs it",
            f"next:   python3 -m http.server --bind 127.0.0.1 --directory {folder} 8000   "
            "then open http://127.0.0.1:8000",
        ]
    say({"version": number} | made, as_json, screen.fitted("\n".join(lines)))
