"""An evaluation: scores, sizes and speeds of teacher, student and floor, and what was compared."""

from typing import Literal, get_args

from pydantic import BaseModel

from registry.records.base import STRICT, Interval
from registry.records.energy import ServingEnergy

Task = Literal["classify", "embed", "generate"]
Metric = Literal["accuracy", "macro_f1", "micro_f1", "mcc"]
Embedding = Literal["overlap_at_10", "spearman", "probe_accuracy"]  # measures of models that embed
Perplexity = Literal["perplexity", "perplexity_second", "byte_perplexity", "byte_perplexity_second"]  # lower is better
Writing = Perplexity | Literal["top1_agreement", "chat_agreement", "facts", "endings"]  # of models that write
MeasureName = Embedding | Writing
EMBEDDING: tuple[Embedding, ...] = get_args(Embedding)
PERPLEXITIES: tuple[Perplexity, ...] = get_args(Perplexity)
WRITING: tuple[Writing, ...] = (*PERPLEXITIES, "top1_agreement", "chat_agreement", "facts", "endings")
METRICS: dict[str, str] = {  # as people write them
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "micro_f1": "micro-F1",
    "mcc": "MCC",
    "overlap_at_10": "overlap@10",
    "spearman": "rank correlation",
    "probe_accuracy": "probe accuracy",
    "perplexity": "perplexity",
    "perplexity_second": "perplexity, second domain",
    "byte_perplexity": "byte perplexity",
    "byte_perplexity_second": "byte perplexity, second domain",
    "top1_agreement": "top-1 agreement",
    "chat_agreement": "chat agreement",
    "facts": "accuracy on facts",
    "endings": "accuracy on endings",
}


class Speed(BaseModel):
    """How fast a model writes with so many threads: medians over rounds in which the compared models take turns."""

    model_config = STRICT
    threads: int
    prefill_tokens_per_s: float  # reading a prompt, its first answer token included
    decode_tokens_per_s: float  # writing, one token after the other
    first_token_ms: float  # from a short prompt to the first token of the answer


class ModelScore(BaseModel):
    """One model's measurements: quality on the test split, size, speed at one thread.

    Of a model that writes, p50_ms and p95_ms are of one written token, and throughput is prompt tokens a second.
    """

    model_config = STRICT
    accuracy: float | None = None  # a classifier's; an embedding model has measures instead
    macro_f1: float | None = None
    mcc: float | None = None  # not measured before it could be asked for; several labels a row have none
    micro_f1: float | None = None  # of several labels a row; of one it is the accuracy
    bytes: int
    parameters: int | None
    macs: int | None
    p50_ms: float
    p95_ms: float
    throughput: float
    peak_rss_mb: float | None
    bits_per_weight: float | None = None  # over all weights; these four of a model that writes
    kl: Interval | None = None  # nats a token from the teacher's distribution; null where tokenizers differ
    kl_second: Interval | None = None  # the same on the second domain
    speeds: tuple[Speed, ...] = ()


class Measure(BaseModel):
    """One quality of a model that embeds or writes: three scores, and the comparisons as an Evaluation has them.

    Where a lower score is better, retention is teacher/student and a win is floor minus student: more is always better.
    """

    model_config = STRICT
    teacher: float
    student: float
    floor: float
    retention: Interval
    lift_retained: Interval
    win_over_floor: Interval


class Sample(BaseModel):
    """What teacher and student write to one shipped prompt, to be read."""

    model_config = STRICT
    prompt: str
    teacher: str
    student: str


class Difference(BaseModel):
    """Student minus another model on the same examples, with its paired 95 % interval; above 0 the student is better.

    In points of the score (0.01 is one point); of perplexities the logarithm of the other's over the student's, so
    that -0.03 says "3 % higher". `variance` is that of one example's paired difference.
    """

    model_config = STRICT
    examples: int
    interval: Interval
    variance: float
    lost: int | None = None  # answers that the other has right and the student wrong; null where none is right or wrong
    won: int | None = None


class Rival(BaseModel):
    """The student beside the champion that reigned when it was evaluated."""

    model_config = STRICT
    digest: str  # of the champion's model directory
    against: Difference | None  # by the evaluation's metric
    left_out: str | None = None  # why they were not compared


class Slice(BaseModel):
    """A part of the examples: the teacher's and the student's score on it, and their difference."""

    model_config = STRICT
    by: str  # length, label, or one of the user's columns
    value: str
    teacher: float
    student: float
    against: Difference


class Behaviour(BaseModel):
    """A group of the user's behaviour checks, and how many of them teacher and student pass."""

    model_config = STRICT
    group: str
    checks: int
    teacher: int
    student: int
    failed: tuple[int, ...] = ()  # those that the student fails, by their lines in the file, never their text


class Leakage(BaseModel):
    """Evaluated texts that also stand among the texts that were learnt from."""

    model_config = STRICT
    texts: int  # evaluated
    learnt: int  # texts of training, calibration and transfer
    exact: int  # the same words
    near: int  # not the same, but nearly
    part: int = 0  # neither, but a passage of theirs


class Evaluation(BaseModel):
    """Teacher, student and honest floor on the same examples; retention and lift are ratios (1 = all kept).

    Of a model that embeds or writes there are several measures; what stands outside of them is of `metric`: of
    embeddings the one that kept least, of writing the perplexity.
    """

    model_config = STRICT
    examples: int
    task: Task = "classify"
    metric: Metric | MeasureName = "accuracy"  # what retention, lift and win are of
    measures: dict[MeasureName, Measure] = {}
    teacher: ModelScore
    student: ModelScore
    floor: ModelScore
    retention: Interval
    lift_retained: Interval
    win_over_floor: Interval
    flips_to_wrong: int | None  # null where there are no labels to be right or wrong by
    flips_to_right: int | None
    agreement: float | None
    left_out: dict[MeasureName, str] = {}  # why a measure was not taken
    runtime: str | None = None  # that ran the models, where there is a choice
    reference: tuple[Speed, ...] = ()  # the teacher in float32 in transformers, in the same minutes
    sample: Sample | None = None  # of models that write and have a chat template
    against_teacher: Difference | None = None  # by the metric; null in records of before it was taken
    champion: Rival | None = None  # null where none reigned, or nobody asked
    slices: tuple[Slice, ...] = ()
    behaviour: tuple[Behaviour, ...] = ()
    leakage: Leakage | None = None
    serving: ServingEnergy | None = None  # null in records of before it was metered

    def scores(self) -> dict[str, float]:
        """Teacher's, student's and floor's score by the metric that this evaluation goes by."""
        for name, one in self.measures.items():
            if name == self.metric:
                return {"teacher": one.teacher, "student": one.student, "floor": one.floor}
        models = {"teacher": self.teacher, "student": self.student, "floor": self.floor}
        return {role: float(getattr(model, self.metric)) for role, model in models.items()}


def better(metric: str, one: float, other: float) -> bool:
    """Whether the one score by a metric or measure is better than the other."""
    return one < other if metric in PERPLEXITIES else one > other


class Discrepancy(BaseModel):
    """How far an export's answers are from its source's on held-out texts; deviations are absolute."""

    model_config = STRICT
    texts: int
    unit: Literal["text", "token"] = "text"  # what was counted: a model that writes answers every token
    largest: float
    mean: float
    agreement: (
        float  # share of the texts with the same label or labels; of embeddings, with the same nearest other text
    )
    cosine: float | None = None  # the least of any text's two embeddings; null for labels
    runtime: str  # that gave the export's answers, in a process of its own
