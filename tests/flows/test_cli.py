"""The command as a person meets it: help, JSON, one-sentence refusals with exit code 2, cancel, doctor, progress."""

import io
import json
import logging
import math
import os
import re
import resource
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import psutil
import pytest
import typer.main
from rich.console import Console

from flows import cli, cli_run, doctor, fields, sentences, summed, written
from flows import console as screen
from flows import journal as journals
from infra.addresses import Services
from registry import runs, versions
from registry.carbon.inputs import basis
from registry.records import digest_directory
from tasks.kinds import AnyChainConfig, methods
from tests import signatures
from tests.flows.test_init import make_csv, make_model
from tests.flows.test_report import stage as make_stage

Answer = tuple[int, str, str]
Shrink = Callable[..., Answer]
HEAVY = ("torch", "transformers", "mlflow", "prefect", "boto3", "sklearn", "onnxruntime")
STAGE = make_stage("distill", 3.0) | {"method": "logits", "measured": {}}
COMMANDS = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]  # a click.Group


@pytest.fixture
def shrink(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Shrink:
    """Run the command in this process, with a state directory of its own and tmp_path as the current one."""
    monkeypatch.setenv("SHRINK_HOME", str(tmp_path / ".shrink"))
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> Answer:
        monkeypatch.setattr(sys, "argv", ["shrink", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return call


def refused(answer: Answer) -> str:
    """The sentence of a refusal: exit code 2, one line on standard error, alone or, with --json, as an object too."""
    status, out, err = answer
    assert status == 2 and err.startswith("shrink: ") and err.count("\n") == 1, answer
    assert not out or json.loads(out) == {"error": err.removeprefix("shrink: ").rstrip("\n"), "exit_code": 2}, answer
    return err


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help_and_json(shrink: Shrink, name: str) -> None:
    status, out, _ = shrink(name, "--help")
    assert status == 0 and "--json" in out and COMMANDS[name].help


def test_help_is_grouped_quick_and_imports_nothing_heavy() -> None:
    code = f"""
import sys
from flows import cli
for words in (["--help"], ["--version"], ["stages", "--json"], ["runs"], ["run", "nope"], ["init", "--help"]):
    sys.argv = ["shrink", *words]
    try:
        cli.main()
    except SystemExit:
        pass
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    heads = [done.stdout.index(f"─ {group} ─") for group in ("Compress", "Registry", "Operate")]
    assert heads == sorted(heads)
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "flows.cli", "--help"], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 0.5, "CPU seconds of `shrink --help`"


def test_commands_on_an_empty_home(shrink: Shrink, tmp_path: Path) -> None:
    assert shrink("--version")[1].startswith("shrink ")
    assert json.loads(shrink("runs", "--json")[1]) == []
    assert json.loads(shrink("stages", "--json")[1]) == methods()
    assert json.loads(shrink("down", "--json")[1]) == {"stopped": [], "megabytes": 0.0}
    found = {one["name"]: one for one in json.loads(shrink("doctor", "--json")[1])}
    assert found["s3"]["state"] == "warn" and "shrink up" in found["s3"]["remedy"]
    assert found["libraries"]["state"] == "ok" and found["python"]["remedy"] is None
    assert not (tmp_path / ".shrink").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rn"], r"No such command 'rn'. Did you mean 'run'"),
        (["run", "--smok"], r"No such option: --smok .*--smoke"),
        (["show"], r"Missing argument 'model'; see `shrink show --help`"),
        (["run", "sentimnt"], r"recipe 'sentimnt' does not exist; did you mean 'sentiment'"),
        (["run", "mine.yml"], r"recipe 'mine.yml' does not exist; did you mean 'mine.yaml'"),
        (["run", "mine.yaml"], r"unknown key 'gaet'; did you mean 'gate'"),
        (["resume"], r"no run is interrupted; `shrink runs`"),
        (["resume", "x1"], r"run 'x1' does not exist; `shrink runs`"),
        (["cancel"], r"no run is running"),
        (["cancel", "x1"], r"run 'x1' does not exist"),
        (["logs", "x1"], r"run 'x1' does not exist"),
        (["logs"], r"no runs yet; `shrink run sentiment` makes one"),
        (["why", "sentiment"], r"model 'sentiment' is not registered, nothing was run here; `shrink run`"),
        (["stages", "distil"], r"stage 'distil' does not exist; did you mean 'distill'"),
        (["predict", "sentiment", "fine", " "], r"text 2 is ' '; give some words"),
        (["predict", "sentiment", "\u200b"], r"text 1 is '.u200b'; give some words"),
        (["generate", "sentiment", " "], r"prompt is ' '; give some words"),
        (
            ["generate", "sentiment", "go on", "--max-tokens", "0"],
            r"Invalid value for '--max-tokens'.* should be greater than or equal to 1",
        ),
        (["generate", "sentiment", "go on", "--runtime", "vllm"], r"runtime is 'vllm' but must be one of: auto, trans"),
        (["chat", "sentiment", "--runtime", "vllm"], r"runtime is 'vllm' but must be one of: auto, transformers"),
        (["chat", "sentiment"], r"s3, mlflow, prefect do not answer; start them with"),
        (["deploy", "sentiment", "--port", "70000"], r"port is 70000 but must lie between 1 and 65535"),
        (["deploy", "sentiment", "--canary", "2"], r"canary is 2\.0 but must be less than or equal to 1; change"),
        (["deploy", "sentiment", "--host", "0.0.0.0"], r"which others can reach, but there is no token: put one of 16"),
        (["deploy", "sentiment", "--host", "no.such.host.invalid"], r"which nothing is known by; give an address"),
        (["deploy", "sentiment", "--port", "http"], r"Invalid value for '--port'.*see `shrink deploy --help`"),
        (["bundle", "sentiment", "--browser", "."], r"browser is '.*' but that is there and not empty; name a new"),
        (
            ["bundle", "sentiment", "--browser", "mine.yaml"],
            r"browser is '.*mine.yaml' but that is there and not empty",
        ),
        (["bundle", "sentiment", "--browser", "new"], r"s3, mlflow, prefect do not answer; start them with"),
        (["bundle", "sentiment"], r"bundle needs --browser DIR or --offline DIR, one of them; give it\."),
        (["show", "sentiment"], r"s3, mlflow, prefect do not answer; start them with `shrink up`"),
        (["init", "mine2", "--data", "no.csv", "--model", "bert"], r"model is 'bert' but there is no such folder"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(
    shrink: Shrink, tmp_path: Path, words: list[str], message: str
) -> None:
    (tmp_path / "mine.yaml").write_text("name: mine\ngaet: {}\n")
    plain, as_json = shrink(*words), shrink(*words, "--json")
    assert re.search(message, refused(plain)) and refused(as_json) == plain[2]
    assert plain[1] == "" and as_json[1]
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


def test_a_taken_port_is_refused(shrink: Shrink) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        assert f"port is {port} but" in refused(shrink("deploy", "sentiment", "--port", str(port)))


def test_init_through_the_command(shrink: Shrink, tmp_path: Path) -> None:
    make_model(tmp_path / "bert")
    make_csv(tmp_path / "rows.csv")
    words = ["--data", "rows.csv", "--model", "bert", "--json"]
    status, out, err = shrink("init", "mine", *words)
    assert status == 0 and err == "" and json.loads(out)["labels"] == ["no", "yes"]
    assert "exists; choose another name" in refused(shrink("init", "mine", *words))


def test_an_unknown_architecture_is_refused_before_any_server_or_stage(shrink: Shrink, tmp_path: Path) -> None:
    config = make_model(tmp_path / "bert") / "config.json"
    make_csv(tmp_path / "rows.csv")
    shrink("init", "mine", "--data", "rows.csv", "--model", "bert")
    config.write_text(config.read_text().replace('"bert"', '"gpt2"'))
    assert "model_type is 'gpt2' but only these encoders" in refused(shrink("run", "mine.yaml", "--json"))
    assert not (tmp_path / ".shrink").exists()


def test_names_that_the_registry_does_not_know(
    shrink: Shrink,
    servers: Services,
    servers_home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SHRINK_HOME", str(servers_home))
    assert json.loads(shrink("up", "--json")[1])["prefect"] + "/api" == servers.prefect_api
    client, name = runs.connect(servers.mlflow_uri), f"known-{uuid.uuid4().hex[:8]}"
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "file.txt").write_text("x")
    run_id = runs.open_run(client, "tests", "run", {runs.RUN_TAG: uuid.uuid4().hex})
    tags, trust = {versions.RECIPE_TAG: "r"}, signatures.trust(servers_home)
    versions.register(client, name, folder, None, digest_directory(folder), tags, "x", run_id, trust, None)
    capsys.readouterr()  # what MLflow says while it registers
    assert f"its newest version is {name}@1" in refused(shrink("show", name))
    client.set_model_version_tag(name, "1", versions.VERDICT_TAG, versions.REJECTED)
    assert f"{name}@1 was rejected; `shrink why {name}@1` says why" in refused(shrink("predict", name, "fine"))
    client.set_registered_model_alias(name, "champion", "1")
    wrong = name[:-1] + "x"
    assert f"model '{wrong}' is not registered; did you mean '{name}'" in refused(shrink("predict", wrong, "fine"))
    assert "has no alias 'champoin'; did you mean 'champion'" in refused(shrink("show", f"{name}@champoin"))
    assert "has no version '7'; its versions are: 1" in refused(shrink("why", f"{name}@7"))
    assert "has no alias 'live'" in refused(shrink("deploy", f"{name}@live", "--port", "18431"))
    elsewhere = tmp_path / "elsewhere.db"
    words = [sys.executable, "-m", "flows.cli", "doctor", "--json"]
    strange = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{elsewhere}"}
    done = subprocess.run(words, env=strange, cwd=tmp_path, capture_output=True, text=True)
    told = " ".join(one["what"] for one in json.loads(done.stdout) if one["name"] in {"ledger", "ledgers"})
    assert "of 0 models" not in told and told, "doctor asks the registry of its own home"
    assert not elsewhere.exists() and not (tmp_path / "mlflow.db").exists()


def test_stages_names_every_field(shrink: Shrink) -> None:
    parts = []
    for kind, names in json.loads(shrink("stages", "--json")[1]).items():
        parts += (found := json.loads(shrink("stages", kind, "--json")[1]))
        assert [part["method"] for part in found if part["method"]] == names and found
    for kind, configs in fields.KEYS.items():
        parts += (found := json.loads(shrink("stages", kind, "--json")[1]))
        assert len(found) == len(configs)
    assert len(parts) == len(get_args(AnyChainConfig)) + sum(map(len, fields.KEYS.values()))
    assert "documents" in shrink("stages", "data/generate")[1]
    for field in (field for part in parts for field in part["fields"]):
        assert field["type"] and field["description"], field
    (part,) = json.loads(shrink("stages", "quantize/int8_dynamic", "--json")[1])
    by_name = {field["name"]: field for field in part["fields"]}
    assert (by_name["embedding"]["type"], by_name["embedding"]["required"]) == ("one of: none, int8, int4", False)
    lines = shrink("stages", "data")[1]
    assert "  file (text; required)" in lines and "split (list: whole number; default [70, 85])" in lines
    assert "prune/vocabulary" in shrink("stages", "prune")[1]
    both = shrink("stages", "evaluate")[1]
    assert "evaluate/classify: " in both and "  metric (" in both and "evaluate/embed: " in both and "  texts (" in both
    (part,) = json.loads(shrink("stages", "floor/embed", "--json")[1])
    assert (part["task"], [field["name"] for field in part["fields"]][:2]) == ("embed", ["ngrams", "min_df"])


def a_run(home: Path, name: str, **more: Any) -> Path:
    """The directory of a run with this journal; its process is gone."""
    directory = home / "runs" / f"20260101-000000-{name}-aaaa"
    directory.mkdir(parents=True)
    journal = {"run_id": directory.name, "recipe": name, "recipe_digest": "0", "status": "failed", "pid": 1}
    journal |= {"pid_created": 1.0, "started": "2026-01-01T00:00:00+00:00", "stages": [], "version": None}
    journals.write(directory, journal | {"verdict": None, "error": "S3 is away\nat line 7"} | more)
    return directory


def test_a_failure_under_json_names_the_run_that_can_go_on(shrink: Shrink, tmp_path: Path) -> None:
    me = {"pid": os.getpid(), "pid_created": psutil.Process().create_time()}
    directory = a_run(tmp_path / ".shrink", "tiny", **me)
    told = json.loads(shrink("logs", "zz", "--json")[1])
    assert told.pop("error").startswith("run 'zz' does not exist")
    assert told == {"exit_code": 2, "run": directory.name, "resume": f"shrink resume {directory.name}"}
    journals.write(directory, json.loads((directory / "run.json").read_text()) | {"status": "passed"})
    assert "run" not in json.loads(shrink("logs", "zz", "--json")[1])


def test_runs_and_logs_say_how_far_each_is(shrink: Shrink, tmp_path: Path) -> None:
    me = {"pid": os.getpid(), "pid_created": psutil.Process().create_time(), "status": "running", "error": None}
    a_run(tmp_path / ".shrink", "broken")
    directory = a_run(tmp_path / ".shrink", "tiny", **me)
    for name in ("00-data", "01-floor"):
        (directory / name).mkdir()
        (directory / name / "log.txt").write_text("a warning\n" if name == "00-data" else "")
    (directory / "00-data" / "record.json").write_text(json.dumps(make_stage("data", 1.0)))
    (directory / "01-floor" / "record.json").write_text('{"key')
    broken, tiny = shrink("runs")[1].splitlines()
    assert broken.split(None, 2)[1:] == ["failed", "S3 is away"] and tiny.split(None, 2)[1:] == [
        "running",
        "at 01-floor",
    ]
    assert shrink("logs", "tiny")[1].splitlines()[1:] == ["== 00-data: 60.0 s", "a warning", "== 01-floor: goes on"]
    assert json.loads(shrink("logs", "tiny", "--json")[1]) == {"00-data": "a warning\n", "01-floor": ""}
    stages = [[one["kind"] for one in run["stages"]] for run in json.loads(shrink("runs", "--json")[1])]
    assert stages == [[], ["data"]]
    assert [one["name"] for one in json.loads(shrink("report", "--json")[1])["energy"]["stages"]] == ["data"]
    assert json.loads(shrink("report", "broken", "--json")[1])["energy"]["stages"] == []
    assert "model 'brokn' has no runs; did you mean 'broken'?" in refused(shrink("report", "brokn"))
    assert "a report is of all its runs: give 'tiny', or `shrink show tiny@2`" in refused(shrink("report", "tiny@2"))
    assert f"run {directory.name} goes on" in refused(shrink("why", "tiny"))
    assert "is failed; `shrink resume 20260101-000000-broken-aaaa`" in refused(shrink("why", "broken"))
    judged = {"passed": True, "checks": []}
    a_run(tmp_path / ".shrink", "an-older", recipe="broken", status="passed", verdict=judged, version="2")
    told = shrink("why", "broken")[1]
    assert told.startswith("broken version 2, run 20260101-000000-an-older-aaaa\nverdict: passed\n")
    assert told.endswith("newer, and not judged: run 20260101-000000-broken-aaaa is failed\n")


def test_what_to_type_next_fits_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: name)
    passed, rejected = summed.next_steps("sentiment", "1", True), summed.next_steps("mine", "2", False)
    assert passed[0] == 'next:    shrink predict sentiment@champion "a touching, funny film"'
    assert passed[1:3] == [
        "         shrink why sentiment@champion",
        "         shrink init mine --data reviews.csv --model ./my-bert   (your own data and model)",
    ]
    assert rejected == ["next:    shrink why mine@2", "         shrink down   (stops the servers)"]
    assert " generate small@champion " in summed.next_steps("small", "1", True, "generate")[0]
    assert summed.next_steps("two", "1", True, pairs=True)[0].endswith(' --pair "it made me laugh and cry"')


def test_lines_are_wrapped_between_words_on_a_terminal_and_whole_elsewhere() -> None:
    line = "  ✓ beat_floor: " + " ".join(f"word-{number}" for number in range(30))
    narrow = screen.fitted(line, Console(force_terminal=True, width=40, file=io.StringIO()))
    assert narrow.split() == line.split() and max(map(len, narrow.splitlines())) <= 40
    assert all(part.startswith("      word-") for part in narrow.splitlines()[1:])
    assert screen.fitted(line, Console(file=io.StringIO(), width=40)) == line


def test_a_sentence_about_what_is_not_known() -> None:
    nothing = dict.fromkeys(written.MODELS)
    ill = {"point": math.nan, "low": math.nan, "high": math.inf}
    facts = {"model": "tiny", "bytes": nothing, "latency_ms": nothing, "retention": ill}
    said = sentences.sentence(facts | {"accuracy": {"teacher": 0.0, "floor": 0.5}})
    assert said == "– MB → – MB, – → – ms, keeps – (the teacher's score is 0); bag-of-words alone keeps –"
    said = sentences.sentence(facts | {"accuracy": {"teacher": 0.5, "floor": 0.5}})
    assert said == "– MB → – MB, – → – ms, keeps – [–, –]; bag-of-words alone keeps 100.0%"


RUNNING = """
import os, signal, sys, time, psutil
from pathlib import Path
from flows import journal as journals
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have made SIGINT ignored
directory = Path(sys.argv[1])
journal = {"run_id": directory.name, "recipe": "tiny", "status": "running", "pid": os.getpid(), "version": None,
           "pid_created": psutil.Process().create_time(), "stages": [], "verdict": None, "recipe_digest": "0",
           "started": "2026-01-01T00:00:00+00:00"}
try:
    journals.write(directory, journal)
    time.sleep(60)
except KeyboardInterrupt:
    journals.write(directory, journal | {"status": "cancelled"})
"""


def test_cancel_ends_a_running_run_and_says_how_to_go_on(shrink: Shrink, tmp_path: Path) -> None:
    directories = [
        tmp_path / ".shrink" / "runs" / name for name in ("20260101-000000-tiny-aa", "20260101-000001-tiny-bb")
    ]
    processes = []
    for directory in directories:
        directory.mkdir(parents=True)
        processes.append(subprocess.Popen([sys.executable, "-c", RUNNING, str(directory)]))
    try:
        until = time.monotonic() + 20
        while not all((directory / "run.json").exists() for directory in directories) and time.monotonic() < until:
            time.sleep(0.05)
        assert "2 runs are running; name one of" in refused(shrink("cancel"))
        assert "is running; `shrink cancel` stops it" in refused(shrink("resume", "tiny-aa"))
        status, out, _ = shrink("cancel", "tiny-aa", "--json")
        assert status == 0 and json.loads(out) == {"run_id": directories[0].name, "status": "cancelled"}
        assert processes[0].wait(5) == 0 and processes[1].poll() is None
        assert f"`shrink resume {directories[1].name}`" in shrink("cancel")[1]
        assert "is cancelled, not running" in refused(shrink("cancel", "tiny-bb"))
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_doctor_sees_crashed_runs_and_damaged_journals(shrink: Shrink, tmp_path: Path) -> None:
    directory = tmp_path / ".shrink" / "runs" / "20260101-000000-tiny-aa"
    directory.mkdir(parents=True)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    content = {"run_id": directory.name, "recipe": "tiny", "status": "running", "pid": gone.pid, "pid_created": 1.0}
    content |= {
        "recipe_digest": "0",
        "started": "2026-01-01T00:00:00+00:00",
        "stages": [],
        "version": None,
        "verdict": None,
    }
    journals.write(directory, content)
    status, out, _ = shrink("doctor")
    assert status == 0 and f"{directory.name} crashed; `shrink resume RUN`" in out
    (directory / "run.json").write_text('{"run')
    status, out, _ = shrink("doctor", "--json")
    found = {one["name"]: one for one in json.loads(out)}
    assert status == 1 and found["runs"]["state"] == "broken"


def test_doctor_knows_a_cuda_build_and_other_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "version_of", lambda name: "2.13.0+cu126" if name == "torch" else "0.0.1")
    assert doctor.torch_build().state == "warn"
    (found,) = doctor.libraries()
    assert found.state == "warn" and "safetensors 0.0.1 (tried: " in found.what
    monkeypatch.setattr(doctor, "version_of", lambda name: None)
    assert doctor.torch_build().state == "broken" and doctor.libraries()[0].state == "broken"


def test_a_closed_watcher_hears_no_more() -> None:
    for _ in range(2):
        watcher = screen.watch()
        with screen.console.capture() as printed:
            logging.getLogger("progress").info("done", extra={"stage": STAGE})
        watcher.close()
        assert printed.get().count(" MB ") == 1
    assert watcher not in logging.getLogger("progress").handlers


def test_a_run_that_re_used_stages_says_what_it_took_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new, old = make_stage("evaluate", 2.0), make_stage("finetune", 40.0, cached=True)
    assert summed.this_run([new]) == ""
    assert summed.this_run([old, new]) == "  of this run: 0.0020 kWh; 1 of 2 stages were re-used"
    assert summed.this_run([old]) == "  of this run: none; 1 of 1 stages were re-used"
    monkeypatch.setenv("SHRINK_HOME", str(tmp_path))
    for number, version in enumerate(("1", "1", "2", None)):
        a_run(tmp_path, f"{number}-aaaa", recipe="tiny", status="passed", version=version)
    found = journals.read_all(tmp_path)
    assert [cli_run.registered_before(one) for one in found] == [False, True, False, False]


def test_what_a_line_says() -> None:
    stage = {**STAGE, "bytes": 61_234}
    line = sentences.stage_line({**stage, "measured": {"validation_accuracy": 0.871}})
    assert "0.061 MB" in line and "accuracy 87.1%" in line and " s, " in line and "Wh" in line
    assert "retention 98.2%" in sentences.stage_line({**stage, "measured": {"retention": {"point": 0.982}}})
    assert "re-used, verified" in sentences.stage_line({**stage, "measured": {}, "cached": True})
    assert [sentences.digits(value) for value in (91.2, 9.96, 6.12, 0.0612, 0)] == ["91", "10", "6.1", "0.061", "0"]


def test_energy_is_a_range_over_grids_until_the_country_is_known() -> None:
    stages = [STAGE, make_stage("evaluate", 1.0)]
    everywhere, france = summed.energy_line(stages, basis(None, None)), summed.energy_line(stages, basis(None, "FRA"))
    assert "kWh" in everywhere and "national grids; SHRINK_COUNTRY=FRA" in everywhere
    assert "kWh" in france and "gCO2e (France)" in france
    assert summed.energy_line([make_stage("evaluate", None)], basis(None, None)) == "energy: not measured"
