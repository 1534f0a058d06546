"""A factorised word embedding: the best one there is, through every stage, and refused where it cannot be."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from registry.records import ShrinkError, digest_directory
from tasks import layout, models, runtime
from tasks.distill import logits
from tasks.export import onnx as export
from tasks.prune import low_rank, vocabulary
from tasks.quantize import int4_weight_only, int8_dynamic
from tests.tasks.test_quantized import made
from tests.tasks.test_torch_stages import make_model, make_texts

__all__ = ["made"]  # the fixture


def test_no_other_factors_of_the_rank_lose_less() -> None:
    rng = np.random.default_rng(0)
    table = rng.normal(size=(40, 12)) * np.linspace(2, 0.1, 12)
    counts = rng.integers(1, 50, 40).astype(np.float64)
    tensors = torch.tensor(table, dtype=torch.float32), torch.tensor(counts)
    for rank in (1, 5, 11):
        rows, directions = low_rank.factors(*tensors, rank)
        assert rows.shape == (40, rank) and directions.shape == (rank, 12)
        lost = float((counts[:, None] * (table - (rows @ directions).numpy()) ** 2).sum())
        values = np.linalg.svd(np.sqrt(counts)[:, None] * table, compute_uv=False)
        assert lost == pytest.approx((values[rank:] ** 2).sum(), rel=1e-4)  # Eckart and Young
        plain = low_rank.factors(tensors[0], torch.ones(40), rank)
        assert lost <= float((counts[:, None] * (table - (plain[0] @ plain[1]).numpy()) ** 2).sum()) + 1e-6
    rows, directions = low_rank.factors(*tensors, 12)
    np.testing.assert_allclose((rows @ directions).numpy(), table, atol=1e-5)
    again = low_rank.factors(*tensors, 12)
    assert torch.equal(rows, again[0]) and torch.equal(directions, again[1])


def narrowed(made: dict[str, Path], out: Path, **settings: Any) -> dict[str, Any]:
    """What prune/low_rank measured."""
    out.mkdir()
    return low_rank.run(made, low_rank.PruneLowRankConfig.model_validate(settings), out, 0)


def test_the_share_kept_grows_with_the_rank_and_the_artifact_reads_back(made: dict[str, Path], tmp_path: Path) -> None:
    found = [narrowed(made, tmp_path / str(rank), rank=rank) for rank in (4, 16, 31)]
    assert 0 < found[0]["kept"] < found[1]["kept"] < found[2]["kept"] <= 1
    pieces = models.load(made["student"])[0].table.num_embeddings
    assert found[1]["parameters_before"] - found[1]["parameters"] == pieces * 32 - pieces * 16 - 16 * 32
    model, tokenizer, head = models.load(tmp_path / "16")
    assert model.table.weight.shape == (pieces, 16) and layout.read(tmp_path / "16").columns == 16
    (tmp_path / "again").mkdir()
    models.save(tmp_path / "again", model, tokenizer, head)
    assert digest_directory(tmp_path / "again") == digest_directory(tmp_path / "16")


def test_vocabulary_distill_export_and_quantize_go_on_from_it(made: dict[str, Path], tmp_path: Path) -> None:
    inputs: dict[str, Path] = {**made, "student": made["narrow"]}
    stages: list[tuple[Any, Any]] = [
        (vocabulary, vocabulary.PruneVocabularyConfig(min_count=1)),
        (logits, logits.DistillLogitsConfig(epochs=2, lr=1e-3, transfer=False)),
    ]
    for number, (stage, config) in enumerate(stages):
        out = tmp_path / f"stage{number}"
        out.mkdir()
        stage.run(inputs, config, out, 0)
        inputs["student"] = out
    model, _, _ = models.load(inputs["student"])
    assert model.table.weight.shape[1] == 24 and model.table.num_embeddings == model.config.vocab_size
    before, after = (models.load(tmp_path / f"stage{number}")[0].encoder.state_dict() for number in (0, 1))
    learnt = [name for name in before if not torch.equal(before[name], after[name])]
    assert {f"embeddings.word_embeddings.{part}.weight" for part in ("rows", "expand")} <= set(learnt)
    whole = tmp_path / "whole"
    whole.mkdir()
    export.run({"model": inputs["student"]}, export.OnnxConfig(), whole, 0)
    wanted = runtime.predict(whole, [text for text, _ in make_texts(8, 3)])
    quantisers: list[tuple[Any, Any, str]] = [
        (int8_dynamic, int8_dynamic.Int8DynamicConfig(embedding="int4"), "MatMulInteger"),
        (int4_weight_only, int4_weight_only.Int4WeightOnlyConfig(embedding="int4", block_size=16), "MatMulNBits"),
    ]
    for quantiser, config, product in quantisers:
        small = tmp_path / product
        small.mkdir()
        quantiser.run({"student": whole}, config, small, 0)
        graph = onnx.load(small / "model.onnx").graph
        assert sum(node.op_type == product for node in graph.node) >= 3 * 6 + 1  # the embedding's product, too
        packed = next(tensor for tensor in graph.initializer if tensor.name.endswith("_int4"))
        assert list(packed.dims) == [model.table.num_embeddings, 12]
        apart = np.abs(runtime.predict(small, [text for text, _ in make_texts(8, 3)]) - wanted).max()
        assert apart < np.abs(wanted).max()


def test_a_rank_that_saves_nothing_and_a_second_one_are_refused(made: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ShrinkError, match="rank of prune/low_rank is 32 but the table is 32 wide: give less"):
        narrowed(made, tmp_path / "a", rank=32)
    with pytest.raises(ShrinkError, match="the embedding is factorised already"):
        narrowed({**made, "student": made["narrow"]}, tmp_path / "b", rank=4)


def test_a_factorised_embedding_of_full_rank_changes_nothing() -> None:
    model = make_model()
    ids = torch.tensor([[2, 6, 12, 3]])
    with torch.no_grad():
        wanted = model.embed(ids)
        rows, directions = low_rank.factors(model.table.weight.detach(), torch.ones(model.table.num_embeddings), 32)
        model.encoder.set_input_embeddings(models.factored(rows, directions, 0))
        torch.testing.assert_close(model.embed(ids), wanted, rtol=1e-5, atol=1e-5)
