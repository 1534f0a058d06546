"""The tokenizer of a GGUF file as tokenizers runs it, with llama.cpp's ids; and which of ours GGUF can say.

A GGUF file names the way in which a text is cut before merges ("tokenizer.ggml.pre"); each stands here as what
tokenizer.json says of it. Transformers' own conversion forgets that cut, so that digits, say, would merge.
"""

import json
import unicodedata
from typing import Any

from registry.records import ShrinkError

Said = dict[str, Any]


def split(pattern: str) -> Said:
    """A cut along a regular expression, whose matches stay pieces of their own."""
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def bytewise(cuts: bool) -> Said:
    """Bytes as letters; with GPT-2's own cut into words or without."""
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": cuts}


def sequence(*parts: Said) -> Said:
    """One cut after the other."""
    return {"type": "Sequence", "pretokenizers": list(parts)}


LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")  # digit by digit
PRETOKENIZERS: dict[str, Said] = {  # GGUF's name: the pre_tokenizer of tokenizer.json
    "gpt-2": bytewise(True),
    "smollm": sequence({"type": "Digits", "individual_digits": True}, bytewise(True)),
    "llama-bpe": sequence(split(LLAMA3), bytewise(False)),
    "qwen2": sequence(split(QWEN2), bytewise(False)),
}
COMPOSED = {"qwen2"}  # a text is put into Unicode's NFC first: not by llama.cpp, which leaves that to who asks it
IGNORING = {"llama-bpe"}  # a piece of the vocabulary is taken whole, whatever its merges
NORMAL, CONTROL, DEFINED = 1, 3, 4  # GGUF's kinds of tokens
ENDS = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}  # as transformers and as GGUF call them


def of(fields: dict[str, Any], file: str) -> Any:
    """transformers' tokenizer of a GGUF file's fields (of gguf's reader); ShrinkError for another than known BPE."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer.from_str(json.dumps(described(fields, file)))
    ids = {name: fields.get(f"tokenizer.ggml.{key}_token_id") for name, key in ENDS.items()}
    named = {f"{name}_token": made.id_to_token(int(one.contents())) for name, one in ids.items() if one is not None}
    fast = PreTrainedTokenizerFast(tokenizer_object=made, clean_up_tokenization_spaces=False, **named)
    if "tokenizer.chat_template" in fields:
        fast.chat_template = fields["tokenizer.chat_template"].contents()
    return fast


def described(fields: dict[str, Any], file: str) -> Said:
    """What tokenizer.json would say of a GGUF file's fields."""
    found = {
        name: fields[f"tokenizer.ggml.{name}"].contents()
        for name in ("model", "pre", "tokens", "merges", "token_type", "unknown_token_id")
        if f"tokenizer.ggml.{name}" in fields
    }
    cut = found.get("pre", "gpt-2")
    if found.get("model") != "gpt2" or cut not in PRETOKENIZERS:
        raise ShrinkError(
            f"'{file}' has the tokenizer {found.get('model')}/{cut} but known are gpt2 with "
            f"{', '.join(PRETOKENIZERS)}: take the model's folder of transformers instead."
        )
    tokens, kinds = found["tokens"], found.get("token_type") or [NORMAL] * len(found["tokens"])
    added = [
        {"id": number, "content": token, "special": kind == CONTROL, "normalized": False}
        | dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
        for number, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind in {CONTROL, DEFINED}
    ]
    return {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": {"type": "NFC"} if cut in COMPOSED else None,
        "pre_tokenizer": PRETOKENIZERS[cut],
        "post_processor": None,
        "decoder": bytewise(True),
        "model": {
            "type": "BPE",
            "ignore_merges": cut in IGNORING,
            "vocab": {token: number for number, token in enumerate(tokens)},
            "merges": found.get("merges", []),
        },
    }


def name_of(said: Said) -> str:
    """GGUF's name for the cut that a tokenizer.json makes; raises ShrinkError when llama.cpp would give other ids."""
    model = said.get("model") or {}
    if model.get("type") != "BPE":
        raise ShrinkError(f"no GGUF is written of a {model.get('type')} tokenizer: byte-level BPE alone is known.")
    cut = comparable(said.get("pre_tokenizer"))
    name = next((name for name, known in PRETOKENIZERS.items() if comparable(known) == cut), None)
    if name is None or (name in IGNORING) != bool(model.get("ignore_merges")):
        raise ShrinkError(
            f"no GGUF is written of this tokenizer: its pre_tokenizer is none of {', '.join(PRETOKENIZERS)}, and "
            "llama.cpp would cut texts otherwise; choose another export."
        )
    odd = [one for one in ("continuing_subword_prefix", "end_of_word_suffix", "dropout") if model.get(one)]
    if normal_forms(said.get("normalizer")) != (["NFC"] if name in COMPOSED else []):
        odd.append(f"{'other normalizer than NFC' if name in COMPOSED else 'normalizer'} with {name}")
    odd += [one["content"] for one in said["added_tokens"] if one["lstrip"] or one["rstrip"] or one["single_word"]]
    if model.get("unk_token") and not letters() <= model["vocab"].keys():
        odd.append("unk_token (not all 256 bytes are pieces)")
    if odd:
        raise ShrinkError(f"no GGUF is written of this tokenizer: llama.cpp knows no {odd[0]}; choose another export.")
    return name


def normal_forms(said: Any) -> list[str]:
    """The kinds of a tokenizer.json's normalizers."""
    if not isinstance(said, dict):
        return []
    return [str(one.get("type")) for one in said.get("normalizers", [said])]


def asked(text: str, cut: str) -> str:
    """A text as it must be given to llama.cpp to get the ids that transformers gives."""
    return unicodedata.normalize("NFC", text) if cut in COMPOSED else text


def comparable(cut: Any) -> Any:
    """A pre_tokenizer without what changes no piece; one alone is the sequence of itself."""
    if not isinstance(cut, dict):
        return cut
    if cut.get("type") == "Sequence" and len(cut["pretokenizers"]) == 1:
        return comparable(cut["pretokenizers"][0])
    found = {key: value for key, value in cut.items() if key != "trim_offsets"}
    if "pretokenizers" in found:
        found["pretokenizers"] = [comparable(one) for one in found["pretokenizers"]]
    if found.get("type") == "ByteLevel":
        found["use_regex"] = found.get("use_regex", True)
    return found


def letters() -> set[str]:
    """The 256 letters that stand for bytes."""
    from tokenizers.pre_tokenizers import ByteLevel

    return set(ByteLevel.alphabet())
