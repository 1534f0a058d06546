"""Every architecture: the description is that of transformers' class, and running it in parts changes nothing."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from registry.records import ShrinkError
from tasks import anatomy, architectures, data, encoders, finetune, label, layout, models, train
from tasks.distill import logits, relations
from tasks.prune import importance, magnitude, structured, wanda
from tests.tasks.encoders import config_of, make_encoder, pad_number, save_teacher, tokenizer_of
from tests.tasks.test_torch_stages import make_texts

KINDS = architectures.known()
NO_TABLE = {"deberta-v2", "modernbert", "nomic_bert"}  # of positions


def batch(encoder: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Three texts of 17, 12 and 5 tokens."""
    rows = int(encoder.get_input_embeddings().num_embeddings)
    ids = torch.randint(5, rows, (3, 17), generator=torch.Generator().manual_seed(3))
    mask = torch.ones_like(ids)
    mask[1, 12:], mask[2, 5:] = 0, 0
    return ids * mask + (1 - mask) * int(encoder.config.pad_token_id or 0), mask


@pytest.mark.parametrize("kind", KINDS)
def test_the_description_names_the_weights_of_transformers_own_class(kind: str) -> None:
    from transformers import AutoModel

    config = config_of(kind, tokenizer_of("WordPiece", pad_number(kind)))
    own = {name: list(one.shape) for name, one in AutoModel.from_config(config).state_dict().items()}
    own = {name: shape for name, shape in own.items() if not name.startswith("pooler.")}
    assert architectures.wanted_shapes(config.to_dict() | {"model_type": kind}) == own
    assert architectures.PREFIXES[kind] == f"{AutoModel.from_config(config).base_model_prefix}."


@pytest.mark.parametrize("kind", KINDS)
def test_layers_run_apart_give_what_transformers_own_forward_gives(kind: str) -> None:
    encoder = make_encoder(kind, tokenizer_of("WordPiece", pad_number(kind)))
    ids, mask = batch(encoder)
    real = mask.bool()
    with torch.no_grad():
        wanted = encoder(input_ids=ids, attention_mask=mask).last_hidden_state[real]
        hidden = encoders.embed(encoder, ids)
        whole = encoders.run(encoder, hidden, mask)
        below = encoders.run(encoder, encoders.run(encoder, hidden, mask, last=0), mask, last=2)
        split = encoders.run(encoder, below, mask, first=2)
        alone = encoders.run(encoder, encoders.embed(encoder, ids[2:, :5]), mask[2:, :5])
    assert torch.allclose(whole[real], wanted, atol=1e-5) and torch.allclose(split[real], wanted, atol=1e-5)
    assert not torch.allclose(below, whole, atol=1e-2)
    assert torch.allclose(alone[0], whole[2, :5], atol=2e-5), "an answer depends on the texts beside it"


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_is_accepted_and_comes_back_the_same(tmp_path: Path, kind: str) -> None:
    folder = save_teacher(tmp_path / kind, kind)
    found = layout.read(folder)
    assert (found.layers, found.ffn, found.heads, found.architecture) == (3, 48, 4, kind)
    assert found.positions == 40 - (2 if pad_number(kind) else 0)
    model, tokenizer, head = models.load(folder)
    assert encoders.positions(model.encoder) == found.positions and anatomy.head_size(model.encoder) == found.head_size
    (tmp_path / "again").mkdir()
    models.save(tmp_path / "again", model, tokenizer, head)
    for name in ("config.json", "model.safetensors", "tokenizer.json", "head.json"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()
    longest = [[5] * found.positions]
    assert torch.isfinite(train.predict(model, longest)[0]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_reads_what_is_saved(tmp_path: Path, kind: str) -> None:
    from transformers import AutoModel

    folder = save_teacher(tmp_path / kind, kind)
    encoder, own = models.load_encoder(folder), AutoModel.from_pretrained(folder).eval()
    ids, mask = batch(encoder)
    with torch.no_grad():
        wanted = own(input_ids=ids, attention_mask=mask).last_hidden_state[mask.bool()]
        found = encoders.run(encoder, encoders.embed(encoder, ids), mask)[mask.bool()]
    assert torch.allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_without_a_weight_or_with_a_wrong_size_is_refused(tmp_path: Path, kind: str) -> None:
    from safetensors.torch import save_file

    folder = save_teacher(tmp_path / kind, kind)
    path, held = folder / "model.safetensors", load_file(folder / "model.safetensors")
    for name in held:
        save_file({key: one for key, one in held.items() if key != name}, path)
        with pytest.raises(ShrinkError, match=r"model\.safetensors lacks"):
            layout.read(folder)
    name = max(held)
    save_file(held | {name: torch.full_like(held[name], float("nan"))}, path)
    with pytest.raises(ShrinkError, match="holds NaN or infinity in"):
        layout.read(folder)
    save_file(held, path)
    config = json.loads((folder / "config.json").read_text())
    own = architectures.named(config, "intermediate_size")
    (folder / "config.json").write_text(json.dumps(config | {own: 64}))
    with pytest.raises(ShrinkError, match="in the size"):
        layout.read(folder)


def test_strangers_are_refused_with_a_reason() -> None:
    with pytest.raises(ShrinkError, match=r"'convbert', which is not supported \(its convolutions mix padding into"):
        layout.check_architecture({"model_type": "convbert"})
    with pytest.raises(ShrinkError, match=r"model_type is 'gpt2' but only these encoders are supported: bert, "):
        layout.check_architecture({"model_type": "gpt2"})


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("rows")
    for name, count, seed in (("train", 60, 1), ("validation", 20, 2), ("transfer", 10, 3)):
        found = [
            {"id": str(n), "text": text, "label": int(m > 0)} for n, (text, m) in enumerate(make_texts(count, seed))
        ]
        data.write_rows(out / f"{name}.jsonl", found)
    facts = {"labels": ["negative", "positive"], "max_length": 16, "rows": {}, "format": "csv"}
    (out / "data.json").write_text(json.dumps(facts))
    return out


@pytest.mark.parametrize("kind", KINDS)
def test_sliced_parts_equal_masked_ones_or_are_refused(tmp_path: Path, kind: str) -> None:
    folder, neurons, heads = save_teacher(tmp_path / kind, kind), [1, 4, 5, 17, 40], [0, 3]
    reference, small = models.load(folder)[0], models.load(folder)[0]
    ids, mask = batch(reference.encoder)
    cut = [part for part in ("ffn", "heads") if (kind, part) not in architectures.REFUSED]
    assert len(cut) == {"mpnet": 1, "mobilebert": 1, "squeezebert": 0}.get(kind, 2)
    if not cut:
        return
    count = len(reference.layers)
    ffn_masks, head_masks = [torch.ones(1, 1, 48)] * count, [torch.ones(1, 1, 4, 1)] * count
    for place, layer in enumerate(small.layers):
        if "ffn" in cut:
            ffn_masks[place] = torch.zeros(1, 1, 48).index_fill(2, torch.tensor(neurons), 1)
            models.slice_ffn(layer, neurons)
        if "heads" in cut:
            head_masks[place] = torch.zeros(1, 1, 4, 1).index_fill(2, torch.tensor(heads), 1)
            models.slice_heads(layer, heads, anatomy.head_size(small.encoder))
    if "ffn" in cut:
        setattr(small.config, architectures.named(small.config.to_dict(), "intermediate_size"), 5)
    if "heads" in cut:
        small.config.kept_heads = 2
    with torch.no_grad():
        whole = reference(ids, mask)
        importance.attach(reference, ffn_masks, head_masks)
        wanted = reference(ids, mask)
        assert not torch.allclose(wanted, whole, atol=1e-3) and torch.allclose(small(ids, mask), wanted, atol=1e-5)
    out = tmp_path / "cut"
    out.mkdir()
    models.save(out, small, *models.load(folder)[1:])
    found = layout.read(out)
    assert (found.ffn, found.heads) == (5 if "ffn" in cut else 48, 2 if "heads" in cut else 4)
    with torch.no_grad():
        assert torch.equal(models.load(out)[0](ids, mask), small(ids, mask))


@pytest.mark.parametrize("kind", KINDS)
def test_the_torch_stages_run_or_are_refused(tmp_path: Path, rows: Path, kind: str) -> None:
    teacher = save_teacher(tmp_path / "teacher", kind)

    def made(module: Any, config: Any, **inputs: Path) -> Path:
        out = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        out.mkdir()
        module.run({**inputs, "data": rows}, config, out, 0)
        layout.read(out) if (out / "config.json").exists() else None
        return out

    few: dict[str, Any] = {"epochs": 1, "batch_size": 8}
    if kind == "albert":
        with pytest.raises(ShrinkError, match="tuned_layers is 2 but all layers of an ALBERT share their weights: set"):
            made(finetune, finetune.FinetuneConfig(tuned_layers=2, **few), teacher=teacher)
    tuned = made(finetune, finetune.FinetuneConfig(tuned_layers=3 if kind == "albert" else 1, **few), teacher=teacher)
    labels = made(label, label.LabelConfig(), teacher=tuned)
    parts: dict[str, Any] = {
        part: size for part, size in (("ffn", 16), ("heads", 2)) if (kind, part) not in architectures.REFUSED
    }
    cut = made(structured, structured.PruneStructuredConfig(layers=(0, 2), **parts), student=tuned)
    assert (layout.read(cut).layers, layout.read(cut).positions) == (2, 40 if kind in NO_TABLE else 16)
    student = made(logits, logits.DistillLogitsConfig(**few), student=cut, labels=labels)
    uses: tuple[tuple[str, Any, Any, dict[str, Path]], ...] = (
        ("linears", magnitude, magnitude.PruneMagnitudeConfig(), {}),
        ("linears", wanda, wanda.PruneWandaConfig(calibration_rows=20), {}),
        ("relations", relations, relations.DistillRelationsConfig(relation_heads=2, **few), {"labels": labels}),
    )
    for wanted, module, config, more in uses:
        if (kind, wanted) in architectures.REFUSED:
            with pytest.raises(ShrinkError, match=rf"{config.kind}/{config.method}.*: [A-Z]\w+.*: (cut|use)"):
                made(module, config, student=student, teacher=tuned, **more)
        else:
            made(module, config, student=student, teacher=tuned, **more)


def test_wanda_of_shared_layers_sees_what_all_of_them_see(tmp_path: Path) -> None:
    model = models.load(save_teacher(tmp_path / "albert", "albert"))[0]
    ids, mask = batch(model.encoder)
    seen: list[torch.Tensor] = []
    handle = model.layers[0].ffn.register_forward_pre_hook(lambda module, args: seen.append(args[0][mask.bool()]))
    with torch.no_grad():
        model(ids, mask)
    handle.remove()
    assert len(seen) == 3
    wanted = torch.cat(seen).double().square().sum(0).sqrt()
    with torch.no_grad():
        found = wanda.input_norms(model, 0, [model.embed(ids)], [mask])["ffn"]
    assert torch.allclose(found.double(), wanted, rtol=1e-5)


def test_modernbert_keeps_its_first_layer_and_the_kinds_of_attention(tmp_path: Path) -> None:
    model = models.load(save_teacher(tmp_path / "modernbert", "modernbert"))[0]
    with pytest.raises(ShrinkError, match=r"layers is \[1, 2\] but must begin with 0 in a ModernBERT"):
        models.keep_layers(model, [1, 2])
    models.keep_layers(model, [0, 2])
    assert model.config.layer_types == ["full_attention", "sliding_attention"]
