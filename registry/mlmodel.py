"""The file MLmodel at the root of a version: it tells MLflow's own clients that flows/pyfunc.py opens it.

It holds no code and is not signed: nothing of ours reads it, and a download removes it (registry/download.py).
"""

import json
from pathlib import Path

FILE = "MLmodel"
META = "registered_model_meta"  # MLflow's client writes it beside what it downloads: the name that was asked
LARGEST = 100_000  # bytes
LOADER = "flows.pyfunc"
TEXT, PAIR, TOKENS = "text", "pair", "max_tokens"
MAX_TOKENS = 128  # of an answer, where a client names no other number


def write(model: Path, model_id: str, folder: Path) -> Path:
    """Write the MLmodel of a model's directory into a folder: loader, columns that are read, no dependencies."""
    import mlflow
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    config = model / "config.json"
    about = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    columns = [TEXT, *([PAIR] if about.get("pairs") else [])]
    writes = about.get("task") == "generate"
    params = ParamSchema([ParamSpec(TOKENS, "long", MAX_TOKENS)]) if writes else None
    signature = ModelSignature(inputs=Schema([ColSpec("string", name) for name in columns]), params=params)
    made = Model(
        model_id=model_id,
        signature=signature,
        mlflow_version=mlflow.__version__,
        flavors={"python_function": {"loader_module": LOADER}},
    )
    made.save(str(folder / FILE))
    return folder / FILE
