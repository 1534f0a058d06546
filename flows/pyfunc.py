"""What MLflow's own clients load of a registered version: `mlflow models serve -m models:/NAME@champion`, load_model.

A version's MLmodel file (registry/mlmodel.py) names this module, so that no code and no pickle comes from the registry:
what lies there is data, copied aside and opened only once its signature holds for every file. The file itself is not
signed, and MLflow imports whatever module it names: who serves so trusts the registry that far; `shrink deploy` reads
no MLmodel.
"""

import atexit
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import yaml

from flows import keys
from flows.settings import HUB, apply, settings
from registry import contents, signing
from registry.download import STORED
from registry.mlmodel import MAX_TOKENS, META, PAIR, TEXT, TOKENS
from registry.records import ShrinkError


class Served:
    """An opened version as MLflow wants it: an object with `predict`."""

    def __init__(self, model: Path) -> None:
        from tasks import runtime

        self.model, self.config, self.task = model, runtime.settings(model), runtime.task(model)
        self.opened: Any
        if self.task == "generate":
            from flows import writer

            apply(HUB)
            _, self.opened = writer.opened_by("auto", model, settings().threads)
        else:
            self.opened = runtime.session(model, settings().threads)

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """The answer to each row: label and scores, an embedding, or (at most `max_tokens` tokens of) text."""
        from tasks import runtime

        texts = asked(model_input, bool(self.config.get("pairs")))
        if self.task == "generate":
            most = int((params or {}).get(TOKENS, MAX_TOKENS))
            return [{"text": self.written(text, most)} for text in texts]
        found = runtime.predict(self.model, texts, opened=self.opened)
        if self.task == "embed":
            return [{"embedding": row} for row in found.tolist()]
        return runtime.answers(found, self.config)

    def written(self, prompt: str, most: int) -> str:
        """What the model answers to a prompt."""
        from flows import writer

        ids = writer.asked(self.opened, prompt, raw=False)
        return writer.answered(self.opened, ids, most, writer.unseen).text


def _load_pyfunc(path: str) -> Served:
    """Open a downloaded version once it is verified; MLflow calls this. Raises RuntimeError for one that is not."""
    downloaded = Path(path)
    own = Path(tempfile.mkdtemp(prefix="shrink.served."))
    atexit.register(shutil.rmtree, own, ignore_errors=True)
    for part in STORED:
        if (downloaded / part).is_dir():
            shutil.copytree(downloaded / part, own / part, symlinks=True)
    try:
        contents.check_folder(own, STORED)
        signing.verify(named(downloaded), own, keys.trust(settings()))
    except (contents.Foreign, signing.Unverified, OSError, ValueError) as error:
        raise RuntimeError(f"what lies in {downloaded} {error}: it is not loaded") from None
    return Served(own / "model")


def named(downloaded: Path) -> str:
    """The name that the version was asked by; where it was asked by its id, the one that it was signed as."""
    meta = downloaded / META
    if meta.is_file():
        return str(yaml.safe_load(meta.read_text(encoding="utf-8"))["model_name"])
    return str(json.loads((downloaded / "evidence" / "show.json").read_text(encoding="utf-8"))["model"])


def asked(given: Any, pairs: bool) -> list[Any]:
    """The texts (or pairs) of what a client sent: a table with the column `text` (and `pair`), or a list of texts."""
    if hasattr(given, "columns"):
        wanted = [TEXT, PAIR] if pairs else [TEXT]
        if missing := [name for name in wanted if name not in given.columns]:
            raise ShrinkError(f"column '{missing[0]}' is missing: give {' and '.join(wanted)}.")
        columns = [texts(given[name]) for name in wanted]
        return list(zip(*columns, strict=True)) if pairs else columns[0]
    if pairs:
        raise ShrinkError(f"the model answers pairs: give columns '{TEXT}' and '{PAIR}'.")
    return texts(given)


def texts(given: Any) -> list[str]:
    """Strings as a client sent them; ShrinkError for a cell that is something else, by its row."""
    for number, text in enumerate(given, start=1):
        if not isinstance(text, str):
            raise ShrinkError(f"row {number} is {text!r} but must be a text; give strings.")
    return [str(text) for text in given]
