"""What becomes of a run: tracking in MLflow, the registered version with its evidence, the reload, the promotion."""

import getpass
import json
import shutil
from pathlib import Path
from typing import Any

from filelock import FileLock

from flows import cache, grams, kept, keys, made_of, report, units
from flows.obtain import Curves, Workshop, attempts
from flows.recipe import Recipe
from flows.reporting import formats, gather, page
from flows.reporting.compose import compose
from flows.sentences import sentence
from flows.servers import client
from flows.shown import shown
from flows.start import saved
from registry import attested, card, provenance, runs, signing, versions
from registry import footprint as fp
from registry.carbon.inputs import basis
from registry.records import Evaluation, Verdict, digest_directory

WIDE = "\u00a0" * 4  # MLflow's pages put no space between the columns of a table


def open_tracking(recipe: Recipe, journal: dict[str, Any]) -> None:
    """Open the parent MLflow run, or go on with the one of a resumed run."""
    tags = {"shrink.recipe": recipe.digest, runs.RUN_TAG: str(journal["run_id"])}
    tags |= {"mlflow.user": getpass.getuser(), "mlflow.source.name": f"shrink run {recipe.name}"}
    journal["mlflow_run_id"] = runs.open_run(client(), recipe.name, str(journal["run_id"]), tags)


def close_tracking(shop: Workshop, journal: dict[str, Any]) -> None:
    """Write the stages as child runs and end the parent with the run's status; may be repeated."""
    parent = journal["mlflow_run_id"]
    if parent is None:
        return
    data = data_of(shop)
    for record in shop.records:
        runs.log_stage(client(), parent, record, curves_of(shop, record.key), data)
    if data is not None:
        runs.log_data(client(), parent, data, ("training", "evaluation"))
    if journal["status"] in {"passed", "rejected"}:
        evaluation = Evaluation.model_validate(journal["evaluation"])
        runs.log_evaluation(client(), parent, evaluation, Verdict.model_validate(journal["verdict"]))
    footprint = fp.whole(fp.spent(shop.records, attempts(shop)))
    match journal["status"]:
        case "passed" | "rejected":
            runs.close_run(client(), parent, "FINISHED", footprint)
        case "cancelled" | "stopped":
            runs.close_run(client(), parent, "KILLED", footprint)
        case _:
            runs.close_run(client(), parent, "FAILED", footprint)


def data_of(shop: Workshop) -> runs.DataSet | None:
    """The data set of a run by its name, digest, origin and row counts, once its stage is done."""
    made = next((record for record in shop.records if record.kind == "data"), None)
    if made is None:
        return None
    recipe = json.loads((shop.directory / "recipe.json").read_text())
    return runs.DataSet(
        name=made.config["file"], digest=made.digest, source=recipe["data_source"]["uri"], rows=made.measured
    )


def curves_of(shop: Workshop, key: str) -> Curves:
    """The curves of a stage: of this process, or as the run wrote them that made it."""
    if key in shop.curves:
        return shop.curves[key]
    for path in (shop.settings.home / "runs").glob("*/*/record.json"):
        try:
            if json.loads(path.read_text())["key"] == key:
                found = json.loads(path.with_name("curves.json").read_text())
                return tuple((name, value, step) for name, value, step in found)
        except (OSError, ValueError, LookupError, TypeError):
            continue  # that run was killed while it wrote them
    return ()


def register(
    shop: Workshop,
    recipe: Recipe,
    journal: dict[str, Any],
    evaluation: Evaluation,
    verdict: Verdict,
    student: Path,
    evaluated: Path,
) -> str:
    """Register the student with its evidence (idempotent by digest and recipe); returns the version.

    Raises RuntimeError when what was evaluated is not what would be registered.
    """
    digest = digest_directory(student)
    judgement = next(record for record in shop.records if record.kind == "evaluate")
    if (was := judged(shop)) != digest:
        raise RuntimeError(f"the student changed after its evaluation: {was[:12]} was judged, {digest[:12]} is there")
    verdict_word = versions.PASSED if verdict.passed else versions.REJECTED
    journal.update(digest=digest, licences=licences(recipe))
    journal.update(evaluation=evaluation.model_dump(mode="json"), verdict=verdict.model_dump(mode="json"))
    done = {**journal, "status": verdict_word, "stages": [record.model_dump(mode="json") for record in shop.records]}
    done["attempts"] = [one.model_dump(mode="json") for one in attempts(shop)]
    facts, given = report.build([done]), basis(shop.settings.carbon, shop.settings.country)
    its_report = compose(gather.alone(done, shop.directory), given)
    facts["limits"] = list(its_report.limits)
    seen = shown(recipe.name, recipe.digest, digest, evaluation, verdict, shop.records, facts, given)
    seen["carbon_start"] = saved.told(shop.directory, attempts(shop))
    key = keys.ready(shop.settings)
    told = made_of.statement(recipe, shop.records, digest, evaluation, verdict, key.public.id, str(journal["run_id"]))
    evidence = write_evidence(shop, recipe, evaluation, verdict, facts, seen, student, evaluated, told)
    (evidence / "report.html").write_text(page.html(its_report), encoding="utf-8")
    (evidence / "report.json").write_text(formats.json_text(its_report), encoding="utf-8")
    signature = shop.directory / "signature"
    shutil.rmtree(signature, ignore_errors=True)
    sealed = signing.sign(recipe.name, {"model": student, "evidence": evidence}, key, signature / "model.sig")
    made = {record.digest for record in shop.records}
    inputs = {f"{r.kind}.{role}": at for r in shop.records for role, at in r.inputs.items() if at not in made}
    tags = {
        versions.DIGEST_TAG: digest,
        versions.RECIPE_TAG: recipe.digest,
        versions.INPUTS_TAG: json.dumps(inputs, sort_keys=True),
        versions.VERDICT_TAG: verdict_word,
        versions.EVALUATED_TAG: f"{(judgement.started or '')[:10]} {judgement.inputs.get('champion', 'alone')}",
        versions.KEY_TAG: sealed.key,
    }
    text, about = description(verdict, sentence(seen)), about_model(recipe)
    parent = str(journal["mlflow_run_id"])
    runs.log_recipe(client(), parent, recipe.model_dump(mode="json"), text)
    with FileLock(shop.settings.home / "locks" / f"register-{recipe.name}.lock"):
        trust = keys.trust(shop.settings)
        version = versions.register(
            client(), recipe.name, student, evidence, digest, tags, text, parent, trust, signature, about
        )
    journal["version"] = version
    return version


def write_evidence(
    shop: Workshop,
    recipe: Recipe,
    evaluation: Evaluation,
    verdict: Verdict,
    facts: dict[str, Any],
    seen: dict[str, Any],
    student: Path,
    evaluated: Path,
    told: dict[str, Any],
) -> Path:
    """The run's evidence/ as it is stored with the version: card, report, golden answers, the facts of `show`.

    And what the gate went by, with the statement of what the student was made of.
    """
    evidence = shop.directory / "evidence"
    shutil.rmtree(evidence, ignore_errors=True)
    evidence.mkdir()
    shutil.copy(evaluated / "golden.json", evidence / "golden.json")
    (evidence / "show.json").write_text(json.dumps(seen, indent=1))
    attested.write(evidence, seen["digest"], evaluation, recipe.gate, verdict, told)
    data = next(record.digest for record in shop.records if record.kind == "data")
    examples = kept.keep(recipe, cache.path_of(shop.settings.home, data), evaluated, shop.settings.home, evidence)
    key, when = provenance.signed(told)
    about = json.loads((student / "config.json").read_text())
    story = card.Story(
        digest=seen["digest"],
        recipe_digest=recipe.digest,
        payback=facts["payback_sentence"],
        limits=tuple(facts["limits"]),
        labels=tuple(about.get("labels", ())),
        multi_label=bool(about.get("multi_label")),
        pairs=bool(about.get("pairs")),
        context=about.get("context", about.get("max_position_embeddings")),
        exports=tuple(f"{one['export']}: {units.compared(one)} ({one['runtime']})" for one in seen["exports"]),
        sources={what: source.uri for what, source in recipe.origins.items()},
        licences={what: source.licence for what, source in recipe.origins.items()},
        grams=seen["footprint"]["gco2e"],
        grams_range=grams.text(seen["footprint"]),
        location=seen["footprint"]["grid"],
        hardware=hardware(gather.header(shop.directory / "samples.jsonl")),
        signed_with=key,
        signed_on=when,
        examples=examples,
    )
    whole = fp.whole(fp.spent(shop.records, attempts(shop)))
    text = card.render(
        recipe.name, recipe.model_dump(mode="json", exclude_none=True), evaluation, verdict, whole, story
    )
    (evidence / "README.md").write_text(text)
    return evidence


def hardware(header: dict[str, Any]) -> str | None:
    """The machine as the head of the samples tells it, in a few words."""
    machine = header.get("machine") or {}
    if not machine.get("cpu"):
        return None
    return f"{machine['cpu']}, {machine.get('threads_seen')} threads, {machine.get('memory_gb')} GB of memory"


def licences(recipe: Recipe) -> dict[str, str]:
    """Licence and origin of teachers and data."""
    return {what: f"{source.licence} ({source.uri})" for what, source in recipe.origins.items()}


def about_model(recipe: Recipe) -> str:
    """What the registered model is, for its page in MLflow."""
    both = "; ".join(f"{what}: {text}" for what, text in licences(recipe).items())
    return (
        f"Students of the recipe `{recipe.name}` ({recipe.task}). `champion` is what is deployed, `previous` what it "
        f"replaced; every version was judged by a gate, and its evidence holds card and report. {both}."
    )


def description(verdict: Verdict, said: str) -> str:
    """One sentence and the verdict as a Markdown table, shown on the version's page."""
    lines = [f"**{'passed' if verdict.passed else 'REJECTED'}**: {said}", ""]
    lines += [f"| check{WIDE} | value{WIDE} | limit{WIDE} | passed |", "|---|---|---|---|"]
    for check in verdict.checks:
        value, least = units.checked(check.name, check.value), units.checked(check.name, check.limit)
        cells = (check.name, value, least, units.STATES[check.state])
        lines.append("|" + "|".join(f" {cell}{WIDE} " for cell in cells) + "|")
    return "\n".join(lines)


def fetch(shop: Workshop, name: str, version: str) -> Path:
    """The registered version fetched anew from the registry, verified against the digest that was judged."""
    target = shop.directory / "fetched"
    shutil.rmtree(target, ignore_errors=True)
    return versions.fetch(client(), name, version, target, keys.trust(shop.settings), judged(shop))


def judged(shop: Workshop) -> str:
    """The digest of the student that was evaluated."""
    return next(record for record in shop.records if record.kind == "evaluate").inputs["student"]
