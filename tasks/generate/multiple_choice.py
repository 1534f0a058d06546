"""Questions with answers to choose from: what a language model finds likeliest, as lm-evaluation-harness takes it.

The model writes nothing: of each choice the log-likelihood behind the question is summed, and the highest is its answer
(`acc`), or the highest a character (`acc_norm`), which is fairer to endings of different lengths. Tokens are cut as
there: question and choice with one blank between them are cut into tokens together, and what exceeds the question's
own tokens is the choice. `benchmarks/questions.py` runs lm-evaluation-harness itself on the same questions.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tasks.generate.evaluation import Question
from tasks.generate.runtime import Opened


def right(model: Opened, questions: Sequence[Question], by_length: bool) -> NDArray[np.float64]:
    """Of each question whether the model picks the answer: 1 or 0, [n]. Of equal choices the first is picked."""
    return np.array([float(picked(model, one, by_length) == one.answer) for one in questions])


def picked(model: Opened, question: Question, by_length: bool) -> int:
    """The choice of the highest log-likelihood, a character of it where `by_length`."""
    found = [likelihood(model, question.context, f" {choice}") for choice in question.choices]
    lengths = [len(choice) if by_length else 1 for choice in question.choices]
    return int(np.argmax(np.array(found) / lengths))


def likelihood(model: Opened, context: str, continuation: str) -> float:
    """Natural log of the probability that the context goes on so."""
    ids, begin = model.ids(context + continuation), len(model.ids(context))
    logits = model.logits(ids)
    return float(log_probabilities(logits[begin - 1 : -1], ids[begin:]).sum())


def log_probabilities(logits: NDArray[np.float32], ids: Sequence[int]) -> NDArray[np.float64]:
    """Natural log of the probability of each id [n] by the logits [n, pieces] of its place."""
    rows = np.asarray(logits, dtype=np.float64)
    top = rows.max(-1)
    chosen = rows[np.arange(len(rows)), np.asarray(ids, dtype=np.int64)]
    return np.asarray(chosen - top - np.log(np.exp(rows - top[:, None]).sum(-1)), dtype=np.float64)
