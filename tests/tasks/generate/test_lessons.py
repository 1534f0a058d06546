"""Trainings of decoders: losses against transformers' own, correction, cached answers, rounded weights that learn."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from registry.records import ShrinkError, digest_directory
from tasks import checkpoint
from tasks.distill import rounded, tokens
from tasks.generate import answers, correct, grids, lesson, lm, straight, top_k
from tests.tasks.generate.decoders import FAMILIES, tiny
from tests.tasks.generate.lessons import documents, folder_of, tokenizer_files

QUICK: dict[str, Any] = {"steps": 12, "lr": 1e-2, "batch": 4}


class Cut(Exception):
    """Stands for the kill."""


def made(at: Path) -> Path:
    at.mkdir(parents=True)
    return at


@pytest.fixture
def at(tmp_path: Path) -> dict[str, Path]:
    """Data, a teacher that has learnt them, and its answers."""
    found = {"data": documents(tmp_path / "data"), "raw": folder_of(tmp_path / "raw")}
    config = correct.CorrectConfig(length=16, steps=60, lr=1e-2, batch=8)
    found["teacher"] = made(tmp_path / "teacher")
    correct.run({"teacher": found["raw"], "data": found["data"]}, config, found["teacher"], 0)
    found["labels"] = made(tmp_path / "labels")
    top_k.run(found, top_k.LabelTopKConfig(k=8, length=16, windows=64), found["labels"], 0)
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_on_text_is_transformers_own(family: str) -> None:
    model, ids = tiny(family), torch.randint(2, 64, (3, 12), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = model(input_ids=ids, labels=ids, use_cache=False).loss
        found = lesson.text_loss(model(input_ids=ids, use_cache=False).logits, ids)
    torch.testing.assert_close(found, wanted)


def test_the_divergence_from_the_top_is_part_of_the_whole_one() -> None:
    draw = torch.Generator().manual_seed(2)
    theirs, mine = (3 * torch.randn(2, 5, 40, generator=draw) for _ in range(2))
    whole = functional.kl_div(mine.log_softmax(-1), theirs.log_softmax(-1), reduction="none", log_target=True)
    found = [float(answers.divergence(mine, *answers.top(theirs, k))) for k in (1, 4, 16, 39)]
    assert found == sorted(found) and found[0] > 0
    assert found[-1] == pytest.approx(float(whole.sum(-1).mean()), rel=5e-3)  # one piece is left: nothing is gathered
    assert float(answers.divergence(theirs, *answers.top(theirs, 4))) == pytest.approx(0, abs=1e-5)
    by_hand = theirs[0, 0].softmax(-1)
    pieces, chances, rest = answers.top(theirs[:1, :1], 2)
    assert pieces[0, 0].tolist() == by_hand.topk(2).indices.tolist()
    assert float(chances.exp().sum() + rest.exp().sum()) == pytest.approx(1, abs=2e-3)


def test_a_correction_learns_the_text_and_leaves_the_grid(tmp_path: Path) -> None:
    data, teacher, out = (
        documents(tmp_path / "data"),
        folder_of(tmp_path / "teacher", grid="q4_1"),
        made(tmp_path / "out"),
    )
    lm.save(teacher, lm.load(teacher), teacher, {}, {})  # numbers that lie on the grid, as a file of blocks gives them
    (teacher / "grids.json").unlink()
    config = correct.CorrectConfig(length=16, **QUICK)
    told = correct.run({"teacher": teacher, "data": data}, config, out, 0)
    assert told["off_grid_before"] < 0.02 < 0.1 < told["off_grid"] < 0.35
    assert told["perplexity"] < 0.9 * told["perplexity_before"] and 0 < told["moved"] < 1
    assert lesson.score(lm.load(out), lm.load_tokenizer(out), data, 16) == pytest.approx(told["perplexity"], rel=1e-6)


def test_a_correction_of_some_layers_leaves_the_others_alone(tmp_path: Path) -> None:
    at = {"data": documents(tmp_path / "data"), "teacher": folder_of(tmp_path / "teacher")}
    correct.run(at, correct.CorrectConfig(length=16, layers=(1,), **QUICK), made(tmp_path / "out"), 0)
    before, after = (lm.load(folder).state_dict() for folder in (at["teacher"], tmp_path / "out"))
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert moved == {name for name in before if ".layers.1." in name}
    for layers, said in (((3,), "layers names 3 but the teacher has 0 to 2"), ((), "layers is empty")):
        with pytest.raises(ShrinkError, match=said):
            correct.run(at, correct.CorrectConfig(length=16, layers=layers, **QUICK), made(tmp_path / said[:12]), 0)
    with pytest.raises(ShrinkError, match="length is 65 tokens but the model reads at most 64"):
        correct.run(at, correct.CorrectConfig(length=65, **QUICK), made(tmp_path / "long"), 0)


def test_cached_answers_are_the_teachers_logits(at: dict[str, Path], tmp_path: Path) -> None:
    tokenizer = lm.load_tokenizer(at["teacher"])
    found = answers.read(at["labels"], at["data"], tokenizer)
    assert found.pieces.shape == (64, 16, 8) and found.pieces.dtype == torch.int32 and found.chances.dtype == torch.half
    with torch.no_grad():
        known = lm.load(at["teacher"])(input_ids=found.ids, use_cache=False).logits.log_softmax(-1)
    wanted = known.topk(8, -1)
    assert torch.equal(found.pieces.long(), wanted.indices)
    torch.testing.assert_close(found.chances.float(), wanted.values, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found.rest.float().exp(), 1 - wanted.values.exp().sum(-1), rtol=2e-3, atol=2e-3)
    again = made(tmp_path / "again")
    top_k.run(at, top_k.LabelTopKConfig(k=8, length=16, windows=64, batch=7), again, 0)
    assert digest_directory(again) == digest_directory(at["labels"])
    with pytest.raises(ShrinkError, match="k is 65 but the model knows 64 pieces only"):
        top_k.run(at, top_k.LabelTopKConfig(k=65, length=16), made(tmp_path / "wide"), 0)


def test_a_student_with_another_tokenizer_is_refused(at: dict[str, Path], tmp_path: Path) -> None:
    student = folder_of(tmp_path / "student")
    tokenizer_files(student, ("river", "the", "bank"))
    with pytest.raises(ShrinkError, match="the labels are of other tokens than the student reads"):
        tokens.run(at | {"student": student}, tokens.DistillTokensConfig(**QUICK), made(tmp_path / "out"), 0)


@pytest.mark.parametrize("weights", [(1.0, 0.0), (1.0, 0.5), (0.0, 1.0)])
def test_what_a_student_lost_comes_back(weights: tuple[float, float], at: dict[str, Path], tmp_path: Path) -> None:
    model = lm.load(at["teacher"])
    torch.manual_seed(0)
    for name, value in model.named_parameters():
        if "mlp" in name:
            value.data += 0.3 * torch.randn(value.shape)
    student, out = made(tmp_path / "student"), made(tmp_path / "out")
    lm.save(student, model, at["teacher"], {}, {})
    config = tokens.DistillTokensConfig(answers_weight=weights[0], text_weight=weights[1], **QUICK)
    told = tokens.run(at | {"student": student}, config, out, 0)
    assert told["perplexity"] < 0.95 * told["perplexity_before"]
    assert (out / "tokenizer.json").is_file() and json.loads((out / "config.json").read_text())["model_type"] == "llama"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_rounded_decoder_of_every_family_learns(family: str, tmp_path: Path) -> None:
    found = {"data": documents(tmp_path / "data"), "teacher": folder_of(tmp_path / "teacher", family)}
    found |= {"labels": made(tmp_path / "labels"), "student": folder_of(tmp_path / "student", family, grid="q4_0")}
    top_k.run(found, top_k.LabelTopKConfig(k=8, length=16, windows=16), found["labels"], 0)
    out = made(tmp_path / "out")
    config = rounded.DistillRoundedConfig(learn="integers", steps=10, lr=3e-3, batch=4)
    rounded.run(found, config, out, 0)
    kept = answers.read(found["labels"], found["data"], lm.load_tokenizer(out))
    apart = [divergence(folder, kept) for folder in (found["student"], out)]
    assert apart[1] < 0.97 * apart[0]
    assert (out / "grids.json").read_bytes() == (found["student"] / "grids.json").read_bytes()


def divergence(folder: Path, kept: answers.Answers) -> float:
    with torch.no_grad():
        return float(answers.divergence(lm.load(folder)(input_ids=kept.ids, use_cache=False).logits, *kept[1:]))


@pytest.mark.parametrize("grid", ["q4_0", "q4_1", "q5_0", "int4_g32_zero"])
@pytest.mark.parametrize("learn", ["scales", "integers"])
def test_what_was_trained_is_what_is_written(
    grid: str, learn: str, at: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student, out = folder_of(tmp_path / "student", grid=grid, seed=4), made(tmp_path / "out")
    seen: list[straight.Learnt] = []
    begin = straight.Learnt.__init__

    def watched(self: straight.Learnt, *args: Any) -> None:
        begin(self, *args)
        seen.append(self)

    monkeypatch.setattr(straight.Learnt, "__init__", watched)
    config = rounded.DistillRoundedConfig(learn=learn, steps=8, lr=1e-2, batch=4)
    told = rounded.run(at | {"student": student}, config, out, 0)
    kept = answers.read(at["labels"], at["data"], lm.load_tokenizer(out))
    with torch.no_grad():
        in_training = seen[0](kept.ids)
        reloaded = lm.load(out)(input_ids=kept.ids, use_cache=False).logits
    assert torch.equal(in_training, reloaded)
    before, after = (lm.integers(folder)[0] for folder in (student, out))
    assert (told["changed"] > 0) == (learn == "integers")
    for name, one in after.items():
        known = lm.integers(out)[1][name]
        assert torch.equal(one.scale, grids.stored(one.scale)) and not torch.equal(one.scale, before[name].scale)
        assert known.low <= int(one.codes.min()) and int(one.codes.max()) <= known.high
        if known.name == "q8_0" or learn == "scales":
            assert torch.equal(one.codes, before[name].codes)


def test_gradients_go_through_the_rounding_as_by_hand() -> None:
    draw = torch.Generator().manual_seed(7)
    weight, grid = torch.randn(6, 64, generator=draw), grids.GGUF["q4_1"]
    one = grids.nearest(weight, grid)
    part = straight.Part(one, grid, True)
    torch.testing.assert_close(part(), one.value(), rtol=0, atol=0)
    wanted = torch.randn(6, 64, generator=draw)
    (part() * wanted).sum().backward()
    scale, shift, position = part.scale.grad, part.shift.grad, part.position.grad  # type: ignore[union-attr]
    groups = wanted.unflatten(1, (2, 32))
    torch.testing.assert_close(scale, one.scale * (groups * one.codes.unflatten(1, (2, 32))).sum(2))
    torch.testing.assert_close(shift, one.scale * groups.sum(2))
    inside = straight.REACH * wanted * grids.spread(one.scale, grid)
    torch.testing.assert_close(position, inside)


@pytest.mark.parametrize("name", ["q4_0", "q4_1", "int4_g32_zero"])
def test_rows_done_in_parts_give_to_the_bit_what_plain_torch_gives(name: str) -> None:
    draw, grid = torch.Generator().manual_seed(8), grids.named(name)
    one = grids.nearest(torch.randn(grids.ROWS + 6, 64, generator=draw), grid)
    part, wanted = straight.Part(one, grid, True), torch.randn(grids.ROWS + 6, 64, generator=draw)
    assert part.position is not None
    part.position.data.uniform_(-0.4, 0.4, generator=draw)  # eight steps: many end at the edge of the grid
    (part() * wanted).sum().backward()
    scale, shift = part.affine()
    place = one.codes.float() + straight.REACH * part.position
    inside = place.clamp(grid.low, grid.high)
    codes = inside + (inside.round() - inside).detach()
    assert (inside != place).float().mean() > 0.05
    groups = codes.unflatten(1, (2, 32))
    found = (groups * scale[..., None] + shift[..., None]).flatten(1)
    torch.testing.assert_close(part(), found, rtol=0, atol=2e-5)
    leaves = [part.scale, part.position, *([] if part.shift is None else [part.shift])]
    for leaf, gradient in zip(leaves, torch.autograd.grad((found * wanted).sum(), leaves), strict=True):
        torch.testing.assert_close(leaf.grad, gradient, rtol=1e-4, atol=1e-3)
    assert torch.equal(part.rounded().codes, codes.round().to(torch.int8))


@pytest.mark.parametrize("integers", [False, True])
def test_what_waits_for_the_way_back_is_a_byte_a_weight(integers: bool) -> None:
    one, grid = grids.nearest(torch.randn(64, 256), grids.GGUF["q4_1"]), grids.GGUF["q4_1"]
    part, held = straight.Part(one, grid, integers), dict[int, int]()

    def pack(value: torch.Tensor) -> torch.Tensor:
        if not (value.is_leaf and value.requires_grad):
            held[value.data_ptr()] = value.numel() * value.element_size()
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        part()
    codes, few = one.codes.numel() * (1 + integers), 6 * 4 * one.scale.numel()
    assert codes <= sum(held.values()) <= codes + few


def test_a_model_whose_weights_are_learnt_lets_go_of_its_own_numbers(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "student", grid="q4_1")
    model, (rounded_ones, known) = lm.load(folder), lm.integers(folder)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    learnt = straight.Learnt(model, rounded_ones, known, False)
    assert {model.get_parameter(name).untyped_storage().nbytes() for name in rounded_ones} == {4}
    straight.put(model, learnt.rounded())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_a_student_in_full_precision_is_refused(at: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ShrinkError, match="needs a student with rounded weights, but this one has none"):
        rounded.run(at | {"student": at["teacher"]}, rounded.DistillRoundedConfig(), made(tmp_path / "out"), 0)


Run = Callable[[Path], Any]


@pytest.mark.parametrize("stage", ["correct", "tokens", "rounded"])
def test_cut_off_and_gone_on_with_it_ends_with_the_same_artifact(
    stage: str, at: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = at | {"student": folder_of(tmp_path / "student", grid="q4_0" if stage == "rounded" else "", seed=4)}
    runs: dict[str, Run] = {
        "correct": lambda out: correct.run(inputs, correct.CorrectConfig(length=16, **QUICK), out, 0),
        "tokens": lambda out: tokens.run(inputs, tokens.DistillTokensConfig(text_weight=0.1, **QUICK), out, 0),
        "rounded": lambda out: rounded.run(inputs, rounded.DistillRoundedConfig(learn="integers", **QUICK), out, 0),
    }
    monkeypatch.setattr(checkpoint, "SECONDS", 0.0)
    monkeypatch.setattr(checkpoint, "place", (made(tmp_path / "whole"), "key"))
    runs[stage](made(tmp_path / "one"))
    monkeypatch.setattr(checkpoint, "place", (made(tmp_path / "parts"), "key"))
    kept, count = checkpoint.save, 0

    def save(*args: Any) -> None:
        nonlocal count
        kept(*args)
        count += 1
        if count == 5:
            raise Cut

    monkeypatch.setattr(checkpoint, "save", save)
    with pytest.raises(Cut):
        runs[stage](made(tmp_path / "cut"))
    assert runs[stage](made(tmp_path / "two"))["loss"] and count == 5 + 6  # the last of twelve steps keeps none
    assert digest_directory(tmp_path / "one") == digest_directory(tmp_path / "two")
