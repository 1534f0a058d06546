"""How long a report of many runs takes: copies of one run's folder, then gather, compose and every format.

Once with a yearly factor, and once with a profile of steps so short that every run's samples are read.

    python -m benchmarks.reports RUN_FOLDER [--runs 1000]

RUN_FOLDER is a run's directory (.shrink/runs/...), whose journal and samples are copied under ids of their own.
"""

import argparse
import json
import sys
import tempfile
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from flows.reporting import formats, page
from flows.reporting.compose import compose
from flows.reporting.gather import gather
from registry.carbon.inputs import Basis, basis
from tasks.meter.samples import digest, goes


def copies(run: Path, home: Path, number: int) -> None:
    """That many runs, an hour apart, each with the journal and the samples of this one, in its own hour."""
    told, lines = json.loads((run / "run.json").read_text()), (run / "samples.jsonl").read_text().splitlines()
    began = datetime.fromisoformat(told["started"])
    was = [digest(go.lines) for go in goes(run / "samples.jsonl")]
    for place in range(number):
        when = began + timedelta(hours=place)
        name = f"{when:%Y%m%d-%H%M%S}-{told['recipe']}-{place:04x}"
        folder = home / "runs" / name
        folder.mkdir(parents=True)
        (folder / "samples.jsonl").write_text("".join(f"{moved(line, place)}\n" for line in lines))
        now = dict(zip(was, (digest(go.lines) for go in goes(folder / "samples.jsonl")), strict=True))
        stages = [stage(one, place, now) for one in told["stages"]]
        journal = told | {"run_id": name, "started": when.isoformat(), "stages": stages}
        (folder / "run.json").write_text(json.dumps(journal, indent=1))


def moved(line: str, hours: int) -> str:
    """A line of samples so many hours later."""
    said = json.loads(line)
    return json.dumps(said | {"at": later(said["at"], hours)}, sort_keys=True)


def stage(told: dict[str, Any], place: int, samples: dict[str, str]) -> dict[str, Any]:
    """A stage's record so many hours later, with a key and samples of its own."""
    footprint = told["footprint"] | {"samples": samples.get(told["footprint"].get("samples"))}
    named = {"key": f"{told['key']}-{place}", "started": later(told["started"], place)}
    return told | named | {"footprint": footprint}


def later(stamp: str, hours: int) -> str:
    """A time so many hours later."""
    return (datetime.fromisoformat(stamp) + timedelta(hours=hours)).isoformat()


def by_the_minute(run: Path, home: Path, number: int) -> Basis:
    """Inputs with an intensity a minute, over all the copies."""
    told = json.loads((run / "run.json").read_text())
    first = datetime.fromisoformat(told["started"]).replace(second=0, microsecond=0) - timedelta(hours=1)
    steps = range((number + 3) * 60)
    rows = [f"{(first + timedelta(minutes=at)).isoformat()},{100 + at * 37 % 300}" for at in steps]
    (home / "profile.csv").write_text("\n".join(["timestamp,grams_per_kwh", *rows]) + "\n")
    (home / "carbon.yaml").write_text("profile: profile.csv\n")
    return basis(home / "carbon.yaml", None)


def timed(home: Path, given: Basis) -> None:
    """Print seconds and CPU seconds of every step."""
    wall, cpu = time.perf_counter(), time.process_time()
    report = compose(gather(home), given)
    print(f"read and added up   {time.perf_counter() - wall:6.2f} s, {time.process_time() - cpu:6.2f} CPU s")
    for write in (page.html, formats.json_text, formats.csv_text, formats.markdown, formats.prometheus):
        began = time.process_time()
        size = len(write(report).encode())
        print(f"{write.__name__:18}  {'':9} {time.process_time() - began:6.2f} CPU s, {size / 1e6:.2f} MB")
    print(f"all                 {time.perf_counter() - wall:6.2f} s, {time.process_time() - cpu:6.2f} CPU s")
    print(
        f"{report.counts.runs} runs, {report.counts.executions} executions; "
        f"loaded: {sorted({'torch', 'mlflow', 'transformers', 'codecarbon'} & set(sys.modules)) or 'records alone'}"
    )


def main() -> None:
    """Print both."""
    asked = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    asked.add_argument("run", type=Path)
    asked.add_argument("--runs", type=int, default=1000)
    options = asked.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        copies(options.run, home, options.runs)
        inputs = {"yearly factor": basis(None, None), "profile": by_the_minute(options.run, home, options.runs)}
        for name, given in inputs.items():
            print(f"{name}:")
            timed(home, given)


if __name__ == "__main__":
    main()
