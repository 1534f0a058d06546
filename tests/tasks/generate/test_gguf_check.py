"""GGUF files that are whole, cut off, or made to ask for more than they have."""

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest

from registry.records import ShrinkError
from tasks.generate import gguf_check


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_token_list(["a", "b"])
    writer.add_token_scores([0.0, 1.0])
    writer.add_tensor("token_embd.weight", np.ones((2, 32), dtype=np.float32))
    rows = gguf.quants.quantize(np.ones((4, 32), dtype=np.float32), gguf.GGMLQuantizationType.Q4_0)
    writer.add_tensor("blk.0.ffn_up.weight", rows, raw_dtype=gguf.GGMLQuantizationType.Q4_0)
    for write in (
        writer.write_header_to_file,
        writer.write_kv_data_to_file,
        writer.write_tensors_to_file,
        writer.close,
    ):
        write()
    return path


def test_a_whole_file_is_read(whole: Path) -> None:
    header = gguf_check.check(whole)
    assert header.tensors == {"token_embd.weight": (32, 2), "blk.0.ffn_up.weight": (32, 4)}
    assert "llama.context_length" in header.keys


def test_a_file_that_is_cut_anywhere_is_refused(whole: Path) -> None:
    data = whole.read_bytes()
    for length in (0, 3, 10, 30, 100, 200, len(data) // 2, len(data) - 33):
        whole.write_bytes(data[:length])
        with pytest.raises(ShrinkError, match=r"'m.gguf' is no (whole )?GGUF file"):
            gguf_check.check(whole)


@pytest.mark.parametrize(
    ("place", "form", "number", "message"),
    [
        (4, "I", 9, "is GGUF version 9 but 2 and 3 are known"),
        (8, "Q", 2**60, "says that it has 1152921504606846976 tensors"),
        (16, "Q", 2**62, "says that it has 4611686018427387904 keys"),
        (24, "Q", 2**63, "a key needs 9223372036854775808 bytes"),
    ],
)
def test_a_file_that_asks_for_more_than_it_has_is_refused(
    whole: Path, place: int, form: str, number: int, message: str
) -> None:
    data = bytearray(whole.read_bytes())
    struct.pack_into("<" + form, data, place, number)
    whole.write_bytes(data)
    with pytest.raises(ShrinkError, match=message):
        gguf_check.check(whole)


def test_sizes_of_tensors_and_arrays_are_looked_at_before_they_are_believed(whole: Path) -> None:
    data = whole.read_bytes()
    name = data.index(b"blk.0.ffn_up.weight") + len(b"blk.0.ffn_up.weight")
    for place, number, message in (
        (name + 4, 2**50, r"tensor 'blk.0.ffn_up.weight' of shape \[1125899906842624, 4\] does not fit"),
        (name + 24, 2**40, r"tensor 'blk.0.ffn_up.weight' of shape \[32, 4\] does not fit"),
        (data.index(b"tokenizer.ggml.tokens") + 21 + 8, 2**40, r"'tokenizer.ggml.tokens' needs"),
    ):
        changed = bytearray(data)
        struct.pack_into("<Q", changed, place, number)
        whole.write_bytes(changed)
        with pytest.raises(ShrinkError, match=message):
            gguf_check.check(whole)
