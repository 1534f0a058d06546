"""llama.cpp's own quantizer: its types read back in both runtimes, our importance matrix, what is refused."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from registry.records import ShrinkError, digest_directory
from tasks import checkpoint
from tasks.export import gguf
from tasks.generate import gguf_read, grids, header, imatrix, llama_quantize, llama_types, lm, rounding, runtime, walk
from tasks.kinds import EveryStage
from tasks.quantize import llama_cpp
from tests.tasks.generate import decoders
from tests.tasks.generate.folders import rows_folder
from tests.tasks.generate.test_gguf_write import folder_of

needs_llama = pytest.mark.skipif(find_spec("llama_cpp") is None, reason="llama-cpp-python, an extra, is not installed")
SIZES: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64}
SHORT = {"calibration_blocks": 6, "calibration_length": 32, "batch": 4}
TEXT = "the quick brown fox jumps over the lazy dog and the evil queen"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rows_folder(tmp_path_factory.mktemp("rows") / "data")


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder whose rows are whole blocks of 256, and whose norms make some inputs count far more than others."""
    folder = decoders.folder(tmp_path_factory.mktemp("wide") / "lm", **SIZES)
    model = lm.load(folder)
    generator = torch.Generator().manual_seed(3)
    for name, value in model.named_parameters():
        if "layernorm" in name:
            value.data *= torch.exp(torch.randn(value.shape, generator=generator))
    lm.save(folder, model, folder, {}, {})
    return folder


def made(student: Path, data: Path, out: Path, **fields: Any) -> dict[str, Any]:
    """Run the stage as a recipe would name it."""
    config = EveryStage.validate_python({"kind": "quantize", "method": "llama_cpp", **SHORT, **fields})
    assert isinstance(config, llama_cpp.LlamaCppConfig)
    out.mkdir(parents=True)
    return llama_cpp.run({"student": student, "data": data}, config, out, 0)


@needs_llama
@pytest.mark.parametrize("name", llama_types.NAMES)
def test_every_type_is_near_to_what_it_was_made_of_and_says_the_same_in_both_runtimes(
    student: Path, data: Path, tmp_path: Path, name: str
) -> None:
    measured = made(student, data, tmp_path / "out", type=name)
    assert sorted(one.name for one in (tmp_path / "out").iterdir()) == ["config.json", runtime.MODEL]
    said = json.loads((tmp_path / "out" / "config.json").read_text())
    assert said == {"task": "generate", "context": 512, "bits_per_weight": measured["bits_per_weight"]}
    assert llama_types.TYPES[name].blocks in measured["weights"]
    assert sum(measured["weights"].values()) == sum(one.numel() for one in lm.load(student).parameters())
    assert llama_types.bits(name, header.look(student)) == pytest.approx(measured["bits_per_weight"], rel=0.04)
    whole, found = lm.load(student), gguf_read.model_and_tokenizer(tmp_path / "out" / runtime.MODEL)[0].state_dict()
    allowed = 2.5 * 2.0 ** -llama_types.block(llama_types.TYPES[name].blocks)[1]  # each bit halves the error
    for weight in rounding.linears(whole):
        before = whole.get_parameter(weight).detach()
        assert float((found[weight] - before).norm()) < allowed * float(before.norm()), weight
    plain, fast = (runtime.open_model(tmp_path / "out", by) for by in ("transformers", "llama_cpp"))
    ids = plain.ids(TEXT)
    assert ids == fast.ids(TEXT) == lm.load_tokenizer(student)(TEXT)["input_ids"]
    logits = plain.logits(ids)
    assert np.linalg.norm(fast.logits(ids) - logits) < 0.15 * np.linalg.norm(logits)  # what flows is 8 bits there


@needs_llama
@pytest.mark.parametrize("name", ["Q2_K", "IQ4_NL", "Q4_K_M"])
def test_importance_lessens_the_error_that_it_weighs(student: Path, data: Path, tmp_path: Path, name: str) -> None:
    whole, ids = lm.load(student), torch.randint(3, 280, (6, 32), generator=torch.Generator().manual_seed(1))
    tokenizer_ids = lm.load_tokenizer(student)(TEXT)["input_ids"]
    ids[:, : len(tokenizer_ids)] = torch.tensor(tokenizer_ids)
    squares = imatrix.of(whole, ids, 6)
    errors = {}
    for told in (False, True):
        made(student, data, tmp_path / str(told), type=name, importance=told)
        found = gguf_read.model_and_tokenizer(tmp_path / str(told) / runtime.MODEL)[0].state_dict()
        before = whole.state_dict()
        errors[told] = sum(float(((found[one] - before[one]).square() * by).sum()) for one, by in squares.items())
    assert errors[True] < 0.9 * errors[False]


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "gpt2"])
def test_the_matrix_is_the_diagonal_of_what_goes_into_each_layer(family: str) -> None:
    model, ids = decoders.tiny(family), torch.randint(3, 60, (4, 24), generator=torch.Generator().manual_seed(2))
    found, wanted = imatrix.of(model, ids, 3), dict[str, torch.Tensor]()
    prefixes = {id(one): name for name, one in model.named_modules()}

    def change(index: int, layer: Any, sums: walk.Sums, give: walk.Give) -> None:
        wanted.update({f"{prefixes[id(layer)]}.{name}.weight": one.diagonal() for name, one in sums.items()})

    walk.walk(model, ids, change, lambda index, layer: False, 4)
    assert found.keys() == wanted.keys() == rounding.linears(model).keys()
    for name, one in found.items():
        torch.testing.assert_close(one, imatrix.floored(wanted[name] / ids.numel()), rtol=1e-4, atol=1e-6)


def test_inputs_that_were_never_seen_count_a_little() -> None:
    found = imatrix.floored(torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64))
    assert found.tolist() == pytest.approx([4e-6 / 3, 1.0, 3.0])
    assert imatrix.floored(torch.zeros(2, dtype=torch.float64)).tolist() == [1.0, 1.0]


@needs_llama
def test_rows_that_blocks_of_256_do_not_divide_get_other_blocks_and_it_is_told(data: Path, tmp_path: Path) -> None:
    odd = decoders.folder(tmp_path / "lm", hidden_size=96, intermediate_size=256, head_dim=24)
    measured = made(odd, data, tmp_path / "out", type="Q4_K_M")
    assert set(measured["weights"]) == {"F32", "Q5_0", "Q8_0", "Q4_K", "Q6_K"}
    down = 3 * 256 * 96
    assert measured["weights"]["Q4_K"] + measured["weights"]["Q6_K"] == down
    assert llama_types.bits("Q4_K_M", header.look(odd)) == pytest.approx(measured["bits_per_weight"], rel=0.04)


@needs_llama
def test_a_gguf_of_plain_numbers_makes_the_same_file_as_its_folder_and_always_the_same_bytes(
    student: Path, data: Path, tmp_path: Path
) -> None:
    (tmp_path / "whole").mkdir()
    gguf.run({"model": student}, gguf.GgufConfig(plain="f32"), tmp_path / "whole", 0)
    for name, source in (("a", student), ("b", student), ("c", tmp_path / "whole")):
        made(source, data, tmp_path / name, type="Q4_K_S")
    torch.set_num_threads(2)
    try:
        made(student, data, tmp_path / "d", type="Q4_K_S")
    finally:
        torch.set_num_threads(1)
    assert len({digest_directory(tmp_path / name) for name in "abcd"}) == 1


@needs_llama
def test_a_killed_stage_goes_on_with_the_matrix_that_it_had(
    student: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(student, data, tmp_path / "whole", type="IQ4_NL")
    (tmp_path / "kept").mkdir()
    monkeypatch.setattr(checkpoint, "place", (tmp_path / "kept", "key"))
    with monkeypatch.context() as patch:
        patch.setattr(llama_quantize, "quantize", None)
        with pytest.raises(TypeError):
            made(student, data, tmp_path / "first", type="IQ4_NL")
    monkeypatch.setattr(imatrix, "of", None)
    made(student, data, tmp_path / "second", type="IQ4_NL")
    assert digest_directory(tmp_path / "second") == digest_directory(tmp_path / "whole")


@needs_llama
def test_what_llama_cpp_says_when_it_cannot_is_passed_on(student: Path, data: Path, tmp_path: Path) -> None:
    made(student, data, tmp_path / "a", type="Q8_0", importance=False)
    with pytest.raises(RuntimeError, match=r"could not make Q4_0 of 'model\.gguf': .*requantizing from type q8_0"):
        llama_quantize.quantize(
            tmp_path / "a" / runtime.MODEL, tmp_path / "b.gguf", "Q4_0", None, 1, lambda done, of: None
        )
    with pytest.raises(ShrinkError, match=r"the student is rounded already, and llama\.cpp would round what is left"):
        made(tmp_path / "a", data, tmp_path / "c", type="Q4_0")


def test_what_cannot_be_made_is_refused_before_any_work(data: Path, tmp_path: Path) -> None:
    rounded = folder_of(decoders.tiny("llama"), tmp_path / "rounded", grids.GGUF["q4_0"])
    with pytest.raises(ShrinkError, match=r"the student is rounded already.*: put quantize/llama_cpp in the place of"):
        made(rounded, data, tmp_path / "a", type="Q4_0")
    narrow = decoders.folder(tmp_path / "narrow")
    with pytest.raises(ShrinkError, match=r"blocks of 256, which divide no row of 32, 64 inputs; .* would store Q5_0"):
        made(narrow, data, tmp_path / "b", type="Q4_K_M")
    odd = decoders.folder(tmp_path / "odd", hidden_size=48, head_dim=12)
    with pytest.raises(ShrinkError, match="type Q4_0 has blocks of 32 at least, which do not divide 48 inputs"):
        made(odd, data, tmp_path / "c", type="Q4_0")
    with pytest.raises(ShrinkError, match="no GGUF is written of a 'opt'"):
        made(decoders.folder(tmp_path / "opt", "opt"), data, tmp_path / "d", type="Q4_0")
    with pytest.raises(ValidationError, match="'Q2_K', 'Q3_K_M', 'IQ4_XS'"):
        made(narrow, data, tmp_path / "e", type="Q7_K")


@needs_llama
def test_types_are_numbered_as_llama_cpp_numbers_them() -> None:
    import llama_cpp as library

    for name, kind in llama_types.TYPES.items():
        assert getattr(library, f"LLAMA_FTYPE_MOSTLY_{name}") == kind.number
    assert tuple(llama_types.TYPES) == llama_types.NAMES
