"""Distillation of attention relations: the maths against loops, students of other widths and pieces, whole stages."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor

from flows import order
from flows.recipe import load
from registry.records import ShrinkError, digest_directory
from tasks import data, models, train
from tasks.distill import alongside, logits, relations
from tasks.prune import vocabulary
from tests import kills
from tests.tasks.test_torch_stages import make_tokenizer

Array = np.ndarray[Any, Any]
QUICK: dict[str, Any] = {"epochs": 4, "lr": 3e-3, "batch_size": 8}


def by_loops(student: Array, taught: Array, lengths: list[int], heads: int) -> float:
    """Mean over texts, then over tokens and heads, of the sum of p log(p / q), on cut texts and without tensors."""
    texts = []
    for mine, theirs, length in zip(student, taught, lengths, strict=True):
        found = []
        for head in range(heads):
            for token in range(length):
                chances = []
                for vectors in (mine, theirs):
                    size = vectors.shape[-1] // heads
                    part = vectors[:length, head * size : (head + 1) * size]
                    scores = [math.exp(sum(part[token] * part[near]) / math.sqrt(size)) for near in range(length)]
                    chances.append([score / sum(scores) for score in scores])
                found.append(sum(p * math.log(p / q) for q, p in zip(*chances, strict=True)))
        texts.append(sum(found) / len(found))
    return float(np.mean(texts))


def test_the_divergence_of_relations_equals_loops_whatever_the_widths() -> None:
    rng, lengths = np.random.default_rng(0), [5, 2, 3]
    student, taught = rng.normal(size=(3, 5, 12)), rng.normal(size=(3, 5, 20))
    mask = torch.tensor([[1] * length + [0] * (5 - length) for length in lengths])

    def apart(mine: Array, theirs: Array) -> float:
        found, wanted = (relations.relation(torch.tensor(one), mask, 4) for one in (mine, theirs))
        return float(relations.divergence(found, wanted, mask))

    once = apart(student, taught)
    assert once == pytest.approx(by_loops(student, taught, lengths, 4), rel=1e-9) and once > 0.1
    assert apart(taught, student) == pytest.approx(by_loops(taught, student, lengths, 4), rel=1e-9)
    assert apart(taught, student) != pytest.approx(once, rel=1e-3)
    assert apart(taught, taught) == pytest.approx(0, abs=1e-12)
    student[1, 2:], taught[2, 3:] = 99.0, -99.0  # padding does not count
    assert apart(student, taught) == pytest.approx(once, rel=1e-9)


def test_relations_are_of_what_the_layer_itself_makes(made: dict[str, Path]) -> None:
    model, _, _ = models.load(made["teacher"])
    ids, mask = train.pad([[2, 6, 12, 3], [2, 9, 13, 14, 11, 3]])
    attention, seen = model.layers[1].attention.self, list[Tensor]()
    for part in (attention.query, attention.key, attention.value):
        part.register_forward_hook(lambda _, __, output: seen.append(output))
    with torch.no_grad():
        model(ids, mask)
        wanted = [relations.relation(vectors, mask, 8) for vectors in seen[:3]]
        found = relations.relations(model, 1, model.encode(model.embed(ids), mask, last=1), mask, 8)
    assert len(found) == 3 and all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))


def test_the_teacher_reads_the_students_pieces_by_its_own_numbers() -> None:
    big = make_tokenizer()
    kept = [number for piece, number in big.get_vocab().items() if piece not in ("film", "unused")]
    description, new = vocabulary.reindex(json.loads(big.to_str()), sorted(kept))
    small = Tokenizer.from_str(json.dumps(description))
    numbers = alongside.teacher_numbers(small, big)
    assert [int(numbers[new[old]]) for old in sorted(kept)] == sorted(kept)
    cut = small.encode("a good film")
    assert [big.id_to_token(int(number)) for number in numbers[cut.ids]] == cut.tokens
    assert len(cut.tokens) > len(big.encode("a good film").tokens)
    with pytest.raises(ShrinkError, match="lacks the student's piece 'film': use distill/logits"):
        alongside.teacher_numbers(big, small)


def distance(made: dict[str, Path], student: Path, heads: int = 8) -> float:
    """How far a student's relations are from the teacher's on validation texts."""
    (model, cutter, _), (teacher, big, _) = models.load(student), models.load(made["teacher"])
    texts = [row["text"] for row in data.read_rows(made["data"], "validation")]
    ids, mask = train.pad(train.tokenize(cutter, texts), train.pad_of(model))
    with torch.no_grad():
        sides = []
        for one, given in ((model, ids), (teacher, alongside.teacher_numbers(cutter, big)[ids])):
            last = len(one.layers) - 1
            sides.append(relations.relations(one, last, one.encode(one.embed(given), mask, last=last), mask, heads))
        return sum(float(relations.divergence(a, b, mask)) for a, b in zip(*sides, strict=True))


def taught(made: dict[str, Path], out: Path, **settings: Any) -> dict[str, Any]:
    """What distill/relations measured."""
    config = relations.DistillRelationsConfig.model_validate({**QUICK, "relation_heads": 8, **settings})
    out.mkdir()
    return relations.run(made, config, out, 0)


def test_relations_are_learnt_beside_the_answers_and_again_after_a_cut(
    made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = taught(made, tmp_path / "one")
    assert measured["loss"][-1] < 0.7 * measured["loss"][0] and measured["validation_accuracy"] > 0.9
    rows = [row["text"] for name in ("train", "transfer") for row in data.read_rows(made["data"], name)]
    tokenizers = models.load(made["student"])[1], models.load(made["teacher"])[1]
    differing = sum(tokenizers[0].encode(text).tokens != tokenizers[1].encode(text).tokens for text in rows)
    assert measured["respelled_rows"] == differing > 0
    (tmp_path / "plain").mkdir()
    logits.run(made, logits.DistillLogitsConfig(**QUICK), tmp_path / "plain", 0)
    assert distance(made, tmp_path / "one") < 0.7 * distance(made, tmp_path / "plain")

    kills.goes_on_to_the_same_bytes(
        monkeypatch, tmp_path / "one", measured, lambda out: taught(made, out), at=40, whole=len(rows) // 8 * 4
    )


def test_a_student_of_another_width_and_other_heads_learns_the_relations(made: dict[str, Path], tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel

    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=make_tokenizer().get_vocab_size(),
        hidden_size=24,
        num_hidden_layers=1,
        num_attention_heads=3,
        intermediate_size=32,
        max_position_embeddings=40,
        initializer_range=0.2,
    )
    narrow = tmp_path / "narrow"
    narrow.mkdir()
    student = models.Classifier(BertModel(config, add_pooling_layer=False), 2)
    models.save(narrow, student, make_tokenizer(), models.Head(labels=("a", "b"), max_length=32))
    inputs = {**made, "student": narrow}
    with pytest.raises(ShrinkError, match="hidden_weight needs equal widths"):
        taught(inputs, tmp_path / "refused")
    measured = taught(inputs, tmp_path / "out", hidden_weight=0.0, teacher_layer=2)
    assert measured["loss"][-1] < measured["loss"][0] and measured["respelled_rows"] == 0
    assert distance(made, tmp_path / "out") < 0.7 * distance(made, narrow)


def test_without_pruning_the_teacher_teaches_a_student_of_its_own_shape(made: dict[str, Path], tmp_path: Path) -> None:
    shipped = load("sentiment")
    order.check(shipped.model_copy(update={"stages": tuple(one for one in shipped.stages if one.kind != "prune")}))
    assert distance(made, made["teacher"]) == pytest.approx(0, abs=1e-6)
    inputs = {**made, "student": made["teacher"]}
    measured = logits.run(inputs, logits.DistillLogitsConfig(**QUICK), tmp_path, 0)
    assert measured["validation_accuracy"] > 0.9
    assert measured["parameters"] == models.count_parameters(models.load(made["teacher"])[0])
    assert digest_directory(tmp_path) != digest_directory(made["teacher"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"relation_heads": 5}, r"relation_heads is 5, which does not divide the 16 features of the student's"),
        ({"relation_heads": 32}, r"relation_heads is 32, which does not divide the 16 features of the student's"),
        ({"teacher_layer": 3}, r"teacher_layer is 3 but the teacher's last is 2: lower it"),
    ],
)
def test_what_cannot_be_split_is_refused(
    made: dict[str, Path], tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ShrinkError, match=message):
        taught(made, tmp_path / "out", **settings)
