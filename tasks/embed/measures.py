"""How like its teacher's an embedding model's vectors are, in plain numpy: neighbours, ranks, and a linear probe.

Every measure is a value for each held-out text, so that one bootstrap over texts gives all intervals, paired; the
texts that a query is compared with stay the same in every resample.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.records import Measure, MeasureName
from tasks import metrics

Floats = NDArray[np.float64]
STRENGTHS = (0.25, 1.0, 4.0, 16.0, 64.0, 256.0)  # of the probe: inverse penalties that cross-validation chooses from
FOLDS = 3  # of that choice
NEAREST = 10  # texts that a query's neighbourhood has


def neighbours(similarity: NDArray[Any], count: int) -> NDArray[np.int64]:
    """The `count` most similar other texts of each [n, count], from similarities [n, n]; of equal ones the first."""
    found = np.array(similarity, dtype=np.float64)
    np.fill_diagonal(found, -np.inf)
    return np.argsort(-found, axis=1, kind="stable")[:, :count].astype(np.int64)


def overlap(wanted: NDArray[Any], found: NDArray[Any], count: int = 10) -> Floats:
    """For each text the share [n] of its `count` nearest by the one similarity [n, n] that are so by the other, too."""
    first, second = neighbours(wanted, count), neighbours(found, count)
    return np.asarray((first[:, :, None] == second[:, None, :]).any(2).mean(1), dtype=np.float64)


def rank_correlation(wanted: NDArray[Any], found: NDArray[Any]) -> Floats:
    """For each text the rank correlation [n] of its similarities to all others by the one and the other [n, n].

    Spearman's: Pearson's of the ranks, ties at their mean rank; 0 where one of the two sees no difference.
    """
    first, second = (centred_ranks(similarity) for similarity in (wanted, found))
    spread = np.sqrt((first**2).sum(1) * (second**2).sum(1))
    return metrics.ratio((first * second).sum(1), spread)


def centred_ranks(similarity: NDArray[Any]) -> Floats:
    """Ranks of each row's other entries [n, n - 1], minus their mean."""
    from scipy.stats import rankdata

    count = len(similarity)
    others = np.asarray(similarity)[~np.eye(count, dtype=bool)].reshape(count, count - 1)
    return np.asarray(rankdata(others, axis=1) - count / 2, dtype=np.float64)


def alike(held: dict[str, Any]) -> dict[MeasureName, dict[str, Floats]]:
    """{measure: {role: a value for each text}} of every role's vectors, by their similarities beside the teacher's."""
    from scipy.sparse import issparse

    seen = {role: one @ one.T for role, one in held.items()}
    seen = {role: one.toarray() if issparse(one) else one for role, one in seen.items()}
    return {
        "overlap_at_10": {role: overlap(seen["teacher"], seen[role], NEAREST) for role in seen},
        "spearman": {role: rank_correlation(seen["teacher"], seen[role]) for role in seen},
    }


def probe(train: Any, labels: NDArray[np.int64], held: Any) -> NDArray[np.int64]:
    """The classes [n] that a logistic regression on vectors (dense or sparse) gives to held-out ones.

    Its penalty is chosen by cross-validation on the training rows; the vectors themselves stay as they are.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold

    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    search = GridSearchCV(LogisticRegression(max_iter=1000), {"C": list(STRENGTHS)}, cv=folds)
    return np.asarray(search.fit(train, labels).predict(held), dtype=np.int64)


def compared(values: Mapping[str, Floats], drawn: Floats) -> Measure:
    """A measure from every text's value by role, and from resamples drawn [count, n] as weights of the texts."""
    points = {role: float(one.mean()) for role, one in values.items()}
    lots = {role: drawn @ one / drawn.sum(1) for role, one in values.items()}
    t, s, f = (np.concatenate([[points[role]], lots[role]]) for role in ("teacher", "student", "floor"))
    series = {"retention": metrics.ratio(s, t), "lift_retained": metrics.ratio(s - f, t - f), "win_over_floor": s - f}
    paired = {name: metrics.interval(one[0], one[1:]) for name, one in series.items()}
    return Measure(**points, **paired)


def resamples(examples: int, count: int, seed: int) -> Floats:
    """How often each of the examples is drawn [count, examples] in each of `count` bootstrap resamples."""
    even = np.full(examples, 1 / examples)
    return np.random.default_rng(seed).multinomial(examples, even, size=count).astype(np.float64)
