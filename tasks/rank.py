"""One of the processes of a stage that several train: `python -m tasks.rank DIRECTORY PARENT`, started by torchrun.

Each runs the whole stage function, shares the training (tasks/parallel.py) and leaves behind it, all but the first:
that one writes the artifact and says what it measured. What became of each stands in DIRECTORY/ranks for
tasks/worker.py, which is the parent and without which none of them lives.
"""

import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

from registry.records import ShrinkError
from tasks import progress, worker
from tasks.parent import die_with_parent
from tasks.way import Way


def main() -> int:
    """Run the stage described in DIRECTORY/call.json; returns the exit status."""
    directory, parent = Path(sys.argv[1]), int(sys.argv[2])
    die_with_parent()
    if os.getppid() != parent:
        return 1
    from tasks import parallel

    told: dict[str, Any] = {"error": None, "mendable": False}
    try:
        call = json.loads((directory / "call.json").read_text())
        parallel.join(Way.model_validate(call["way"]), worker.meeting(directory))
        progress.enabled = parallel.first()
        told["measured"] = worker.computed(directory, call)
    except SystemExit:
        pass
    except Exception as error:
        told |= {"error": f"{type(error).__name__}: {error}", "mendable": isinstance(error, ShrinkError)}
        raise
    finally:
        told["peak_rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
        (directory / "ranks" / f"{os.getpid()}.json").write_text(json.dumps(told))
    return 0


if __name__ == "__main__":
    sys.exit(main())
