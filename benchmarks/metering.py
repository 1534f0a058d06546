"""What metering costs: CPU seconds of opening the meter, of a stage, and of a minute, in a process that only meters.

python -m benchmarks.metering [--stages 15] [--seconds 60]
"""

import argparse
import tempfile
import time
from pathlib import Path

from tasks import carbon


def main() -> None:
    """Print the figures, and what they come to for a run of an hour with so many stages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stages", type=int, default=15, help="short stages, metered one after the other")
    parser.add_argument("--seconds", type=float, default=60.0, help="length of one long stage")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        began = time.process_time()
        meter = carbon.open_meter(None, home / "samples.jsonl", home=home, lock=home / "slot")
        opened = time.process_time() - began
        began = time.process_time()
        for number in range(asked.stages):
            with carbon.measure(meter, f"stage-{number}"):
                time.sleep(0.2)
        stage = (time.process_time() - began) / asked.stages
        began = time.process_time()
        with carbon.measure(meter, "long") as gauge:
            time.sleep(asked.seconds)
        minute = (time.process_time() - began - stage) * 60.0 / asked.seconds
        size = (home / "samples.jsonl").stat().st_size
    print(f"opening {opened:.2f} CPU seconds, a stage {stage:.4f}, a minute {minute:.4f}; {size} bytes of samples")
    print(f"a run of an hour with {asked.stages} stages: {opened + asked.stages * stage + 60 * minute:.2f} CPU seconds")
    if gauge.footprint().kwh is None:
        print(f"nothing was measured: {gauge.footprint().why}")


if __name__ == "__main__":
    main()
