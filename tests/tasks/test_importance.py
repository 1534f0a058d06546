"""What is cut by structure: four measures against finite differences, loops and removal; the width cut everywhere."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from registry.records import ShrinkError, digest_directory
from tasks import anatomy, data, layout, models
from tasks.export import onnx
from tasks.prune import importance, structured, width
from tests.tasks.encoders import make_encoder, pad_number, tokenizer_of
from tests.tasks.test_torch_stages import make_model, make_texts, make_tokenizer

SEQUENCES, LABELS = [[2, 6, 12, 3], [2, 9, 13, 14, 15, 3], [2, 7, 3], [2, 20, 8, 3]], [1, 0, 1, 0]
Inputs = dict[str, Path]
KINDS: tuple[importance.Kind, ...] = ("fisher", "taylor", "activation", "magnitude")


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    """A student and forty rows."""
    at = {name: tmp_path / f"the-{name}" for name in ("student", "data")}
    for path in at.values():
        path.mkdir()
    models.save(at["student"], make_model(), make_tokenizer(), models.Head(labels=("a", "b"), max_length=16))
    found = [{"id": str(n), "text": text, "label": int(m > 0)} for n, (text, m) in enumerate(make_texts(40, 1))]
    data.write_rows(at["data"] / "train.jsonl", found)
    return at


def losses_of(model: models.Classifier) -> Tensor:
    """The loss of each text, on its own and with nothing padded."""
    with torch.no_grad():
        logits = [model(torch.tensor([one]), torch.ones(1, len(one), dtype=torch.long)) for one in SEQUENCES]
    return functional.cross_entropy(torch.cat(logits), torch.tensor(LABELS), reduction="none")


def scaled(model: models.Classifier, what: str, place: int, unit: int, factor: float) -> Tensor:
    """The losses with one unit multiplied by a factor, which is done to the weights behind it or, of a norm, to it."""
    layer: Any = model.layers[max(place - (what == "hidden"), 0)]
    parts = anatomy.parts(layer)
    weights = {
        "ffn": [parts.ffn_out.weight[:, unit]],
        "heads": [parts.attention_output.weight[:, unit * 8 : (unit + 1) * 8]],
    }
    if what == "hidden":
        norm = layer.output.LayerNorm if place else model.encoder.embeddings.LayerNorm
        weights["hidden"] = [norm.weight[unit : unit + 1], norm.bias[unit : unit + 1]]
    kept = [one.detach().clone() for one in weights[what]]
    with torch.no_grad():
        for one in weights[what]:
            one *= factor
        found = losses_of(model)
        for one, old in zip(weights[what], kept, strict=True):
            one.copy_(old)
    return found


@pytest.mark.parametrize(
    ("what", "place", "units"),
    [("ffn", 0, (0, 7, 47)), ("ffn", 2, (3,)), ("heads", 1, (0, 3)), ("hidden", 0, (0, 31)), ("hidden", 3, (5,))],
)
def test_the_measures_by_gradient_are_those_of_finite_differences(what: str, place: int, units: tuple[int]) -> None:
    model = make_model().double()
    found = {kind: importance.measure(model, SEQUENCES, LABELS, kind, 4, True, size=3) for kind in ("fisher", "taylor")}
    for unit in units:
        slopes = (scaled(model, what, place, unit, 1 + 1e-5) - scaled(model, what, place, unit, 1 - 1e-5)) / 2e-5
        assert float(slopes.abs().min()) > 1e-6
        taylor, fisher = (float(getattr(found[kind], what)[place][unit]) for kind in ("taylor", "fisher"))
        assert taylor == pytest.approx(float(slopes.abs().sum()), rel=1e-4)
        assert fisher == pytest.approx(float(slopes.square().sum()), rel=1e-4)


def ranks(values: Tensor) -> Tensor:
    return values.argsort().argsort().double()


def test_taylor_ranks_neurons_as_removing_each_of_them_does() -> None:
    model = make_model().double()
    with torch.no_grad():  # neurons of which none decides alone: a first-order estimate is about those
        for layer in model.layers:
            anatomy.parts(layer).ffn_out.weight *= 0.1
    whole = losses_of(model)
    for place in range(3):
        removed = torch.stack([(scaled(model, "ffn", place, unit, 0) - whole).abs().sum() for unit in range(48)])
        found = importance.measure(model, SEQUENCES, LABELS, "taylor", 4).ffn[place]
        assert torch.corrcoef(torch.stack([ranks(removed), ranks(found)]))[0, 1] > 0.95


def test_activations_are_those_of_texts_one_by_one() -> None:
    model = make_model().double()
    found = importance.measure(model, SEQUENCES, LABELS, "activation", 4, True, size=3)
    seen: dict[str, list[Any]] = {"ffn": [], "heads": [], "hidden": []}
    parts = anatomy.parts(model.layers[1])
    handles = [
        parts.ffn_out.register_forward_pre_hook(lambda _, args: seen["ffn"].append(args[0][0].numpy())),
        parts.attention_output.register_forward_pre_hook(lambda _, args: seen["heads"].append(args[0][0].numpy())),
        model.layers[1].register_forward_hook(lambda _, __, output: seen["hidden"].append(output[0].numpy())),
    ]
    losses_of(model)
    for handle in handles:
        handle.remove()
    ffn, heads, hidden = (np.concatenate(one) for one in seen.values())
    np.testing.assert_allclose(found.ffn[1].numpy(), np.abs(ffn).mean(0), rtol=1e-9)
    norms = [np.linalg.norm(heads[:, at * 8 : (at + 1) * 8], axis=1).mean() for at in range(4)]
    np.testing.assert_allclose(found.heads[1].numpy(), norms, rtol=1e-9)
    np.testing.assert_allclose(found.hidden[2].numpy(), np.abs(hidden).mean(0), rtol=1e-9)


def test_magnitudes_are_the_norms_of_what_makes_and_reads_a_unit() -> None:
    model = make_model()
    found = importance.measure(model, [], [], "magnitude", 4, True)
    held = {name: weight.numpy() for name, weight in model.encoder.state_dict().items()}
    query, key, value, output, first, second = (
        held[f"encoder.layer.1.{name}.weight"] for name in (*anatomy.ATTENTION, "intermediate.dense", "output.dense")
    )
    neuron = np.concatenate([first[5], second[:, 5]])
    assert float(found.ffn[1][5]) == pytest.approx(float(np.linalg.norm(neuron)), rel=1e-5)
    head = np.concatenate([*(one[8:16].reshape(-1) for one in (query, key, value)), output[:, 8:16].reshape(-1)])
    assert float(found.heads[1][1]) == pytest.approx(float(np.linalg.norm(head)), rel=1e-5)
    reading = [one[:, 9] for one in (query, key, value, first)]
    feature = np.concatenate([*reading, output[9], second[9]])
    assert float(found.hidden[2][9]) == pytest.approx(float(np.linalg.norm(feature)), rel=1e-5)
    tables = [held[f"embeddings.{name}_embeddings.weight"][:, 9] for name in ("word", "position", "token_type")]
    assert float(found.hidden[0][9]) == pytest.approx(float(np.linalg.norm(np.concatenate(tables))), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_what_hardly_matters_goes_first_by_every_measure(kind: importance.Kind) -> None:
    model, tiny = make_model(), [1, 17, 30]
    with torch.no_grad():
        parts = anatomy.parts(model.layers[0])
        parts.ffn_in.weight[tiny] *= 1e-4
        parts.ffn_in.bias[tiny] = 0
        parts.ffn_out.weight[:, tiny] *= 1e-4
    found = importance.measure(model, SEQUENCES, LABELS, kind, 4)
    assert set(range(48)) - set(structured.top(found.ffn[0], 45)) == set(tiny)
    assert all(weight.requires_grad for weight in model.parameters())


class Narrow(nn.Module):
    """A norm over the features that stay, in their old places between zeros."""

    def __init__(self, norm: nn.LayerNorm, kept: list[int]) -> None:
        super().__init__()
        self.norm, self.kept = norm, kept

    def forward(self, hidden: Tensor) -> Tensor:
        inside = functional.layer_norm(
            hidden[..., self.kept],
            (len(self.kept),),
            self.norm.weight[self.kept],
            self.norm.bias[self.kept],
            self.norm.eps,
        )
        return torch.zeros_like(hidden).index_copy(-1, torch.tensor(self.kept), inside)


def test_a_cut_width_is_a_norm_over_what_stays_and_comes_back(tmp_path: Path) -> None:
    kept = [0, 1, 3, 8, 9, 10, 15, 16, 17, 20, 21, 22, 23, 29, 30, 31]
    small, reference = make_model(), make_model()
    for name, module in list(reference.encoder.named_modules()):
        if isinstance(module, nn.LayerNorm):
            owner, _, last = name.rpartition(".")
            setattr(reference.encoder.get_submodule(owner), last, Narrow(module, kept))
    width.cut(small, kept, 4)
    ids, mask = torch.tensor([[2, 6, 12, 3, 0], [2, 9, 13, 14, 3]]), torch.tensor([[1, 1, 1, 1, 0], [1] * 5])
    models.save(tmp_path, small, make_tokenizer(), models.Head(labels=("a", "b"), max_length=16))
    with torch.no_grad():
        wanted = reference(ids, mask)
        assert not torch.allclose(wanted, make_model()(ids, mask), atol=1e-2)
        assert torch.allclose(small(ids, mask), wanted, atol=1e-5)
        again = models.load(tmp_path)[0]
        assert torch.equal(again(ids, mask), small(ids, mask))
    read = layout.read(tmp_path)
    assert (read.width, read.heads, read.head_size) == (16, 4, 8)
    assert again.head.in_features == 16 and models.count_parameters(again) == models.count_parameters(small)


@pytest.mark.parametrize("kind", KINDS)
def test_the_stage_cuts_width_heads_and_neurons_and_onnx_runs_it(
    inputs: Inputs,
    tmp_path: Path,
    kind: importance.Kind,
) -> None:
    config = structured.PruneStructuredConfig(layers=(0, 2), ffn=20, heads=3, hidden=16, importance=kind)
    outs = [tmp_path / name for name in ("one", "two", "graph", "thin")]
    for out in outs:
        out.mkdir()
    measured = structured.run(inputs, config, outs[0], 0)
    structured.run(inputs, config, outs[1], 0)
    assert digest_directory(outs[0]) == digest_directory(outs[1])
    model = models.load(outs[0])[0]
    assert measured["parameters"] == models.count_parameters(model) < 0.4 * measured["parameters_before"]
    part = anatomy.parts(model.layers[1])
    assert part.query.weight.shape == (24, 16) and part.attention_output.weight.shape == (16, 24)
    assert part.ffn_in.weight.shape == (20, 16) and model.config.num_attention_heads == 2
    assert onnx.run({"model": outs[0]}, onnx.OnnxConfig(), outs[2], 0)["max_difference"] < 1e-4
    thinner = structured.PruneStructuredConfig(heads=1, hidden=8, importance=kind)
    structured.run({**inputs, "student": outs[0]}, thinner, outs[3], 0)
    assert anatomy.parts(models.load(outs[3])[0].layers[0]).query.weight.shape == (8, 8)


def test_the_measures_differ_in_what_they_keep(inputs: Inputs, tmp_path: Path) -> None:
    digests = set()
    for kind in KINDS:
        (tmp_path / kind).mkdir()
        config = structured.PruneStructuredConfig(ffn=20, importance=kind)
        structured.run(inputs, config, tmp_path / kind, 0)
        digests.add(digest_directory(tmp_path / kind))
    assert len(digests) == 4


@pytest.mark.parametrize(
    ("hidden", "message"),
    [
        (20, r"prune/structured: hidden is 20 but an attention head has 8 features: give a multiple of that"),
        (40, r"prune/structured: hidden is 40 but the model has only 32 there: give at most that"),
    ],
)
def test_a_width_that_cannot_be_is_refused(
    inputs: Inputs,
    tmp_path: Path,
    hidden: int,
    message: str,
) -> None:
    with pytest.raises(ShrinkError, match=message):
        structured.run(inputs, structured.PruneStructuredConfig(hidden=hidden), tmp_path, 0)


@pytest.mark.parametrize("architecture", ["distilbert", "albert", "modernbert", "mobilebert"])
def test_every_measure_reaches_other_architectures(architecture: str) -> None:
    model = models.Classifier(make_encoder(architecture, tokenizer_of("WordPiece", pad_number(architecture))), 2).eval()
    for kind in KINDS:
        found = importance.measure(model, SEQUENCES, LABELS, kind, 4)
        for layer, neurons, heads in zip(model.layers, found.ffn, found.heads, strict=True):
            assert len(neurons) == anatomy.parts(layer).ffn_out.in_features and len(heads) == 4
            assert float(neurons.min()) >= 0 and float(neurons.max()) > 0 and float(heads.min()) > 0
        assert not found.hidden


def test_an_architecture_whose_width_is_not_known_is_refused() -> None:
    check: Callable[[str], None] = lambda kind: width.check("stage 3 (prune)", kind, 16, 32, 8, False)  # noqa: E731
    check("bert")
    with pytest.raises(
        ShrinkError, match=r"stage 3 \(prune\): hidden is 16 but the width of 'albert' encoders cannot be"
    ):
        check("albert")
