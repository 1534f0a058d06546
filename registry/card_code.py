"""How a registered model is asked: by this project's commands, and in Python with MLflow and ONNX Runtime alone."""

from registry.records import Task

SNIPPET = """
import json

import mlflow
import numpy as np
import onnxruntime
from tokenizers import Tokenizer

folder = mlflow.artifacts.download_artifacts("models:/%s@champion") + "/model"
with open(folder + "/config.json") as stream:
    config = json.load(stream)
tokenizer = Tokenizer.from_file(folder + "/tokenizer.json")
tokenizer.no_padding()
tokenizer.enable_truncation(config["max_length"])
session = onnxruntime.InferenceSession(folder + "/model.onnx", providers=["CPUExecutionProvider"])
"""
GENERATE = """
import mlflow
from llama_cpp import Llama

folder = mlflow.artifacts.download_artifacts("models:/%s@champion") + "/model"
model = Llama(folder + "/model.gguf", n_ctx=%d, verbose=False)
answer = model.create_chat_completion([{"role": "user", "content": "Why is the sky blue?"}], temperature=0)
print(answer["choices"][0]["message"]["content"])
"""
ROOM = 2048  # tokens of a conversation in llama.cpp: memory grows with it
ASK: dict[Task, str] = {
    "classify": """ids = np.array([tokenizer.encode("a text"%(pair)s).ids])
logits = session.run(["logits"], {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0][0]
%(choose)s
""",
    "embed": """def embed(text):
    ids = np.array([tokenizer.encode(text).ids])
    return session.run(["sentence_embedding"], {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0][0]
similarity = float(embed("a text") @ embed("another text"))
""",
}
ONE_LABEL = 'label = config["labels"][int(logits.argmax())]'
SEVERAL_LABELS = 'labels = [name for name, logit in zip(config["labels"], logits) if logit > 0]'


def use(name: str, task: Task, pairs: bool, multi_label: bool, context: int | None = None) -> str:
    """The section of a card that says how the model is used."""
    path = {"classify": "predict", "embed": "embed", "generate": "generate"}[task]
    words = '"a text" --pair "another text"' if pairs else '"a text"'
    asked = [
        f"shrink predict {name}@champion {words}     # fetched from the registry, verified against its digest",
        f"shrink deploy {name}                        # /{path} and /healthz on loopback, follows the alias",
    ]
    if task == "generate":
        asked = [
            f'shrink generate {name}@champion "Once upon a time"     # fetched, verified against its digest, streamed',
            f"shrink chat {name}@champion                           # a conversation",
        ]
    return "\n".join(
        [
            "## Use it",
            "",
            "```",
            *asked,
            "```",
            "",
            "Without this project, with MLFLOW_TRACKING_URI set (no torch needed, nothing is unpickled):",
            "",
            "```python",
            *code(name, task, pairs, multi_label, context).splitlines(),
            "```",
        ]
    )


def code(name: str, task: Task, pairs: bool = False, multi_label: bool = False, context: int | None = None) -> str:
    """Python lines that ask a registered model with MLflow and ONNX Runtime (or llama.cpp) alone.

    `context`: tokens that a model which writes can read; more than ROOM of them are not asked for.
    """
    if task == "generate":
        return (GENERATE % (name, min(ROOM, context or ROOM))).strip()
    choose, pair = SEVERAL_LABELS if multi_label else ONE_LABEL, ', "another text"' if pairs else ""
    ask = ASK[task] % {"pair": pair, "choose": choose} if task == "classify" else ASK[task]
    return (SNIPPET % name + ask).strip()
