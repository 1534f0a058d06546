"""How long a report of many runs takes: copies of one run's folder, then gather, compose and every format.

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

from flows.reporting import formats, page
from flows.reporting.compose import compose
from flows.reporting.gather import gather


def copies(run: Path, home: Path, number: int) -> None:
    """That many runs, an hour apart, each with the journal and the samples of this one."""
    told, samples = json.loads((run / "run.json").read_text()), (run / "samples.jsonl").read_bytes()
    began = datetime.fromisoformat(told["started"])
    for place in range(number):
        when = began + timedelta(hours=place)
        name = f"{when:%Y%m%d-%H%M%S}-{told['recipe']}-{place:04x}"
        stages = [one | {"key": f"{one['key']}-{place}"} for one in told["stages"]]
        folder = home / "runs" / name
        folder.mkdir(parents=True)
        (folder / "samples.jsonl").write_bytes(samples)
        journal = told | {"run_id": name, "started": when.isoformat(), "stages": stages}
        (folder / "run.json").write_text(json.dumps(journal, indent=1))


def main() -> None:
    """Print seconds and CPU seconds of every step."""
    asked = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    asked.add_argument("run", type=Path)
    asked.add_argument("--runs", type=int, default=1000)
    options = asked.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        copies(options.run, home, options.runs)
        wall, cpu = time.perf_counter(), time.process_time()
        report = compose(gather(home))
        print(f"read and added up   {time.perf_counter() - wall:6.2f} s, {time.process_time() - cpu:6.2f} CPU s")
        for write in (page.html, formats.json_text, formats.csv_text, formats.markdown, formats.prometheus):
            began = time.perf_counter()
            size = len(write(report).encode())
            print(f"{write.__name__:18}  {time.perf_counter() - began:6.2f} s, {size / 1e6:.2f} MB")
        print(f"all                 {time.perf_counter() - wall:6.2f} s, {time.process_time() - cpu:6.2f} CPU s")
        print(
            f"{report.counts.runs} runs, {report.counts.executions} executions; "
            f"loaded: {sorted({'torch', 'mlflow', 'transformers', 'codecarbon'} & set(sys.modules)) or 'records alone'}"
        )


if __name__ == "__main__":
    main()
