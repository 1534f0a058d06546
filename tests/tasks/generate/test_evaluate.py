"""The evaluation of models that write, on tiny seeded ones: every number beside a plain way to it."""

import json
import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from registry.records import PERPLEXITIES, Evaluation, ShrinkError
from tasks import data
from tasks.generate import chatting, evaluation, gguf_write, grids, judging, multiple_choice, reading, speed
from tasks.generate import evaluate as stage
from tasks.generate.evaluation import Question
from tasks.generate.runtime import Opened, open_model
from tests.tasks.generate.decoders import tiny
from tests.tasks.generate.test_gguf_write import folder_of

WORDS = ["the", "cat", "sat", "on", "mat", "a", "dog", "ate", "cake", "cats", "and", "dogs", "it", "goes"]
CONFIG = stage.GenerateEvaluateConfig(text_bytes=4000, prompts=4, answer=6, bootstrap=100, rounds=1)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny Llama as teacher in half precision, as student in 8 bits, as floor in 4; and documents of two domains."""
    at = tmp_path_factory.mktemp("evaluate")
    found = {"data": at / "data"}
    for role, grid in (("teacher", None), ("student", "q8_0"), ("floor", "q4_0")):
        model = tiny("llama")
        model.config.max_position_embeddings = 512
        folder_of(model, at / f"{role}-lm", grids.GGUF[grid] if grid else None)
        found[role] = at / role
        found[role].mkdir()
        gguf_write.write(at / f"{role}-lm", found[role] / "model.gguf")
        (found[role] / "config.json").write_text(json.dumps({"task": "generate", "context": 512}))
    found["data"].mkdir()
    for name, count, seed in (("train", 2, 0), ("test", 9, 1), ("second", 5, 2)):
        rng = np.random.default_rng(seed)
        texts = [" ".join(rng.choice(WORDS, rng.integers(3, 40))) for _ in range(count)]
        data.write_rows(found["data"] / f"{name}.jsonl", [{"id": str(n), "text": one} for n, one in enumerate(texts)])
    (found["data"] / "data.json").write_text(json.dumps({"task": "generate", "max_length": 32}))
    found |= {"champion": found["floor"], "behaviour": at / "behaviour"}
    found["behaviour"].mkdir()
    asked = [
        {"group": "any", "kind": "minimum", "prompt": "the cat sat", key: ["what nobody says"]}
        for key in ("lacks", "contains")
    ]
    (found["behaviour"] / "checks.jsonl").write_text("\n".join(map(json.dumps, asked)))
    return found


@pytest.fixture(scope="module")
def judged(made: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Evaluation, Path]:
    out = tmp_path_factory.mktemp("out")
    return Evaluation.model_validate(stage.run(made, CONFIG, out, 0)), out


def plain(directory: Path, texts: list[str], length: int) -> float:
    """Nats of all tokens of texts, one by one, each window from its own beginning."""
    model, total = open_model(directory, "transformers"), 0.0
    for text in texts:
        ids = [0, *model.ids(text)]
        for place in range(1, len(ids)):
            begin = (place - 1) // (length - 1) * (length - 1)
            logits = torch.from_numpy(model.logits(ids[begin:place]))[-1]
            total -= float(torch.log_softmax(logits.double(), -1)[ids[place]])
    return total


def test_perplexity_is_that_of_a_plain_loop_over_tokens(made: dict[str, Path], judged: tuple[Evaluation, Path]) -> None:
    seen, _ = judged
    for name, ending in (("test", ""), ("second", "_second")):
        texts = [row["text"] for row in data.read_rows(made["data"], name)]
        ids = open_model(made["teacher"], "transformers").ids
        tokens, size = sum(len(ids(text)) for text in texts), sum(len(text.encode()) for text in texts)
        for role in ("teacher", "student", "floor"):
            nats = plain(made[role], texts, 32)
            told = {one: getattr(seen.measures[one], role) for one in PERPLEXITIES if one in seen.measures}
            assert told[f"perplexity{ending}"] == pytest.approx(math.exp(nats / tokens), rel=1e-5)  # type: ignore[index]
            assert told[f"byte_perplexity{ending}"] == pytest.approx(math.exp(nats / size), rel=1e-5)  # type: ignore[index]


def test_an_evaluation_holds_all_measures_and_no_text(made: dict[str, Path], judged: tuple[Evaluation, Path]) -> None:
    seen, out = judged
    assert seen.task == "generate" and seen.metric == "perplexity" and seen.examples == 9 and not seen.left_out
    assert set(seen.measures) == {*PERPLEXITIES, "top1_agreement", "chat_agreement", "facts", "endings"}
    assert seen.retention == seen.measures["perplexity"].retention and seen.scores()["student"] > 1
    top1 = seen.measures["top1_agreement"]
    assert top1.teacher == 1 and top1.floor < top1.student <= 1 and seen.agreement == top1.student
    assert seen.student.kl and seen.floor.kl and 0 < seen.student.kl.point < seen.floor.kl.point
    assert seen.teacher.kl is None and seen.student.kl_second
    assert seen.sample and seen.sample.prompt == chatting.PROMPT
    text = (out / "evaluation.json").read_text()
    assert "cake" not in text and "p50_ms" not in text and "speeds" not in text and "reference" not in text
    values = load_file(out / "values.safetensors")
    assert values["nats.student"].shape == (9,) and values["kl_second.floor"].shape == (5,)


def test_the_gate_is_told_what_it_asks_beyond_the_whole(judged: tuple[Evaluation, Path]) -> None:
    seen, out = judged
    told = seen.measures["perplexity"]
    assert seen.against_teacher and seen.champion and seen.champion.against, "the floor stands in for a champion"
    assert seen.against_teacher.interval.point == pytest.approx(math.log(told.teacher / told.student))
    low, high = (math.log(one) for one in (told.retention.low, told.retention.high))
    assert seen.against_teacher.interval.low == pytest.approx(low, rel=1e-6)
    assert seen.against_teacher.interval.high == pytest.approx(high, rel=1e-6)
    assert seen.champion.against.interval.point == pytest.approx(math.log(told.floor / told.student))
    assert sum(one.against.examples for one in seen.slices) == 9 and seen.slices[0].by == "length"
    assert all(one.teacher > 1 and one.student > 1 for one in seen.slices), "told as perplexities"
    (group,) = seen.behaviour
    assert (group.checks, group.teacher, group.student, group.failed) == (2, 1, 1, (2,))
    assert seen.leakage and (seen.leakage.texts, seen.leakage.learnt) == (9, 2)
    assert not [name for name in load_file(out / "values.safetensors") if "champion" in name]


def test_both_write_on_one_prompt_and_nothing_where_they_cannot_chat(made: dict[str, Path]) -> None:
    teacher = open_model(made["teacher"], "transformers")
    wordy = teacher._replace(
        text=lambda ids: "".join(f" {one}" for one in ids), stream=lambda ids, most: iter(range(most))
    )
    broken = wordy._replace(text=lambda ids: f" Light.{chatting.BROKEN}")
    seen = chatting.sample(wordy, broken)
    assert seen and seen.teacher == " ".join(map(str, range(chatting.SAMPLED))) and seen.student == "Light."

    def refuse(messages: list[dict[str, str]]) -> list[int]:
        raise ShrinkError("no template")

    assert chatting.sample(teacher._replace(chat=refuse), teacher) is None


def test_the_same_models_give_the_same_artifact(
    made: dict[str, Path], judged: tuple[Evaluation, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    took = {"p50_ms": 1.0, "p95_ms": 2.0, "throughput": 3.0, "peak_rss_mb": None, "speeds": ()}  # others than before
    monkeypatch.setattr(
        stage, "speeds", lambda inputs, config: (dict.fromkeys(("teacher", "student", "floor"), took), ())
    )
    stage.run(made, CONFIG, tmp_path, 0)
    for name in ("evaluation.json", "golden.json", "values.safetensors"):
        assert (tmp_path / name).read_bytes() == (judged[1] / name).read_bytes()


def test_speeds_come_with_one_and_two_threads_and_memory(judged: tuple[Evaluation, Path]) -> None:
    seen, _ = judged
    for score in (seen.teacher, seen.student, seen.floor):
        assert [one.threads for one in score.speeds] == [1, 2]
        one = score.speeds[0]
        assert one.decode_tokens_per_s == pytest.approx(1e3 / score.p50_ms) and score.p95_ms >= score.p50_ms
        assert score.throughput == one.prefill_tokens_per_s > 0 and one.first_token_ms > 0
        assert score.peak_rss_mb and score.peak_rss_mb > 50
        assert score.parameters == 64 * 32 + 3 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 64 * 32 + 2 * 32) + 32
        assert score.macs == score.parameters - 7 * 32
    assert [one.threads for one in seen.reference] == [1, 2]
    assert seen.serving is not None and seen.serving.unit == "written token"
    for served, score in ((seen.serving.teacher, seen.teacher), (seen.serving.student, seen.student)):
        assert len(served.windows) == 5 and served.macs_per_inference == score.macs
        assert served.cpu_seconds_per_1000.median > 0 and served.wh_per_1000 is None, "nobody metered it here"


def test_golden_answers_are_what_the_student_writes(made: dict[str, Path], judged: tuple[Evaluation, Path]) -> None:
    golden, student = json.loads((judged[1] / "golden.json").read_text()), open_model(made["student"], "transformers")
    assert set(golden) == {"prompts", "ids", "logprobs", "runtime", "template", "context"}
    assert any(golden["ids"])
    for prompt, ids, told in zip(golden["prompts"], golden["ids"], golden["logprobs"], strict=True):
        given = student.ids(prompt)
        assert ids == list(student.stream(given, stage.GOLDEN_TOKENS))
        for place, number in enumerate(ids):
            logits = torch.from_numpy(student.logits(given + ids[:place])[-1])
            assert told[place] == pytest.approx(float(torch.log_softmax(logits, -1)[number]), abs=1e-4)


def test_without_a_second_domain_or_with_other_tokens_the_measures_are_left_out_with_the_reason(
    made: dict[str, Path], tmp_path: Path
) -> None:
    rows = tmp_path / "data"
    rows.mkdir()
    for name in ("test.jsonl", "data.json"):
        (rows / name).write_bytes((made["data"] / name).read_bytes())
    config = CONFIG.model_copy(update={"questions": ("facts",), "prompts": 2})
    names = ("teacher", "student", "floor")
    models = {one: reading.Model(open_model(made[one], "transformers"), 0) for one in names}
    student = models["student"].opened
    models["student"] = models["student"]._replace(
        opened=student._replace(ids=lambda text: student.ids(text + "")[::-1])
    )
    seen = judging.judged(models, rows, config, 0)
    assert set(seen.measures) == {"perplexity", "byte_perplexity", "chat_agreement", "facts"}
    assert seen.left_out["perplexity_second"] == "the data has no second domain"
    assert seen.left_out["top1_agreement"] == "student cuts text into other tokens than the teacher"
    assert "kl" in seen.kl["floor"] and "kl" not in seen.kl["student"]
    (rows / "test.jsonl").write_text("")
    with pytest.raises(ShrinkError, match="no test documents"):
        judging.judged(models, rows, config, 0)


def test_documents_are_spread_over_a_split_and_none_weighs_more_than_a_tenth() -> None:
    texts = [f"{number} " + "word " * 99 for number in range(40)]
    found = reading.chosen(texts, 5000)
    assert found == texts[::5] or sum(map(len, found)) <= 5000
    assert len(found) > 5 and found[0] == texts[0] and texts.index(found[-1]) > 30
    assert reading.chosen(["é" * 10_000, "short"], 1000) == ["é" * 50, "short"]
    assert reading.chosen(["one two three"], 100) == ["one two"]
    assert reading.chosen(texts, 10**9) == texts


def test_a_text_begins_with_the_token_that_the_folder_names(made: dict[str, Path], tmp_path: Path) -> None:
    lm_folder = made["teacher"].with_name("teacher-lm")
    assert reading.first_token(made["teacher"]) == reading.first_token(lm_folder) == 0
    model = reading.Model(open_model(lm_folder, "transformers"), 0)
    ids = model.opened.ids("the cat sat on the mat")
    cut = reading.windows(model, "the cat sat on the mat", 4)
    assert [one for window in cut for one in window[1:]] == ids and cut[0][0] == 0
    assert all(before[-1] == after[0] for before, after in pairwise(cut)) and max(map(len, cut)) == 4
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((lm_folder / name).read_bytes())
    about = json.loads((tmp_path / "tokenizer_config.json").read_text())
    for bos, first in (("<|im_end|>", 1), (None, 1)):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(about | {"bos_token": bos}))
        assert reading.first_token(tmp_path) == first
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(about | {"bos_token": None, "eos_token": None}))
    with pytest.raises(ShrinkError, match="names neither bos_token nor eos_token"):
        reading.first_token(tmp_path)


def table(said: dict[tuple[int, ...], list[float]]) -> Opened:
    """A model that only knows what likely follows some ids, over four pieces; three ends an answer."""

    def logits(ids: list[int]) -> Any:
        return np.array([said.get(tuple(ids[: at + 1]), [0, 0, 0, 0]) for at in range(len(ids))], dtype=np.float32)

    def stream(ids: list[int], most: int) -> Iterator[int]:
        for _ in range(most):
            token = int(logits(ids)[-1].argmax())
            if token == 3:
                return
            yield token
            ids = [*ids, token]

    return Opened(
        ids=lambda text: [{"a": 0, "b": 1, " ": 2}[one] for one in text],
        text=lambda ids: "".join("ab ."[one] for one in ids),
        chat=lambda said: [{"a": 0, "b": 1}[one] for one in said[0]["content"]],
        logits=logits,
        stream=stream,
        context=100,
    )


def test_chat_agreement_is_the_share_before_the_first_other_token() -> None:
    teacher = table({(0,): [0, 9, 0, 0], (0, 1): [9, 0, 0, 0], (0, 1, 0): [0, 9, 0, 0], (0, 1, 0, 1): [0, 0, 0, 9]})
    given = chatting.answer(teacher, "a", 8)
    assert given == chatting.Answer([0], [1, 0, 1, 3], True)
    assert chatting.answer(teacher, "a", 2) == chatting.Answer([0], [1, 0], False)
    assert chatting.kept(teacher, teacher, "a", given, True) == 1
    other = table({(0,): [0, 9, 0, 0], (0, 1): [9, 0, 0, 0], (0, 1, 0): [9, 0, 0, 0]})
    assert chatting.kept(other, teacher, "a", given, True) == 0.5
    assert chatting.kept(other, teacher, "a", given, False) == pytest.approx(2 / 3)  # by characters: "ba" of "bab"
    longer = table({(0,): [0, 9, 0, 0], (0, 1): [9, 0, 0, 0], (0, 1, 0): [0, 9, 0, 0], (0, 1, 0, 1): [9, 0, 0, 0]})
    assert chatting.kept(longer, teacher, "a", given, True) == 0.75
    with pytest.raises(ShrinkError, match="exceed the teacher's context of 100"):
        chatting.answer(teacher, "a", 100)


def test_choices_are_picked_as_by_hand() -> None:
    model = table({(0,): [0, 0, 9, 0], (0, 2): [0, 1, 0, 0], (0, 2, 1): [0, 2, 0, 0]})
    rest = math.log(3 + math.exp(9))
    one = 9 - rest + 1 - math.log(3 + math.e)
    assert multiple_choice.likelihood(model, "a", " b") == pytest.approx(one)
    assert multiple_choice.likelihood(model, "a", " bb") == pytest.approx(one + 2 - math.log(3 + math.e**2))
    asked = Question("a", ("b", "bb"), 0)
    assert multiple_choice.picked(model, asked, by_length=False) == 0
    assert multiple_choice.picked(model, asked, by_length=True) == 1
    assert multiple_choice.right(model, [asked, asked._replace(answer=1)], False).tolist() == [1, 0]


def test_what_is_shipped_can_be_asked() -> None:
    with pytest.raises(ValueError):
        stage.GenerateEvaluateConfig(prompts=1 + len(evaluation.prompts()))
    assert len(evaluation.prompts()) == stage.GenerateEvaluateConfig.model_fields["prompts"].default and all(
        isinstance(one, str) for one in evaluation.prompts()
    )
    names: tuple[evaluation.Questions, ...] = ("facts", "endings")
    for name in names:
        asked = evaluation.questions(name)
        assert len({one.context for one in asked}) == len(asked) >= 24
        assert all(0 <= one.answer < len(one.choices) == len(set(one.choices)) for one in asked)
        counts = np.bincount([one.answer for one in asked])
        assert counts.max() / len(asked) < 0.5  # always to give the same place is no answer


def test_every_round_reads_another_prompt() -> None:
    ids = list(range(100_000))
    begins = [speed.part(ids, place, 5)[0] for place in range(12)]
    assert len(set(begins)) == 12
    assert speed.part([1, 2, 3], 0, 7) == [1, 2, 3, 1, 2, 3, 1]


def test_a_model_that_ends_at_once_has_no_speed(made: dict[str, Path]) -> None:
    silent = table({})._replace(stream=lambda ids, most: iter(()))
    with pytest.raises(RuntimeError, match="its speed cannot be measured"):
        speed.timed(silent, speed.one_round(silent, [1, 2, 3], 0), 1)
