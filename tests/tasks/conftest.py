"""What the tests of distillation share: a tuned tiny teacher, its labels and a student cut from it."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Data, a tuned teacher, its labels, and a student with one layer, half the heads and few pieces less."""
    from tasks import data, finetune, label, models
    from tasks.prune import structured, vocabulary
    from tests.tasks.test_torch_stages import make_model, make_texts, make_tokenizer

    names = ("source", "data", "start", "teacher", "labels", "cut", "student")
    at = {name: tmp_path_factory.mktemp(name) for name in names}
    for file, count, seed in (("rated.txt", 240, 1), ("more.txt", 30, 2)):
        lines = [f"{number}\t{mean}\t{text}" for number, (text, mean) in enumerate(make_texts(count, seed), start=1)]
        (at["source"] / file).write_text("\n".join(lines) + "\n", encoding="utf-8")
    split = data.DataConfig(file="rated.txt", format="rated", transfer=("more.txt",), max_length=32)
    data.run({"source": at["source"]}, split, at["data"], 0)
    models.save(at["start"], make_model(), make_tokenizer(), models.Head(labels=("a", "b"), max_length=32))
    tuned = finetune.FinetuneConfig(tuned_layers=2, epochs=4, lr=5e-3, batch_size=8)
    finetune.run({"teacher": at["start"], "data": at["data"]}, tuned, at["teacher"], 0)
    label.run({"teacher": at["teacher"], "data": at["data"], "floor": at["data"]}, label.LabelConfig(), at["labels"], 0)
    cut = structured.PruneStructuredConfig(layers=(0, 2), heads=2, ffn=24)
    structured.run({"student": at["teacher"], "data": at["data"]}, cut, at["cut"], 0)
    rare = vocabulary.PruneVocabularyConfig(min_count=75)
    vocabulary.run({"student": at["cut"], "data": at["data"]}, rare, at["student"], 0)
    return at
