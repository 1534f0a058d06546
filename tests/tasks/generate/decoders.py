"""Tiny decoders with random weights, one of each family that is known."""

from pathlib import Path
from typing import Any

import torch

SIZES: dict[str, Any] = {"vocab_size": 64, "max_position_embeddings": 64, "tie_word_embeddings": True}
WIDE: dict[str, Any] = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 3, **SIZES}
MODERN: dict[str, Any] = {"intermediate_size": 64, "num_key_value_heads": 2, "head_dim": 8, **WIDE}
ENDS = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}


def tiny(family: str, seed: int = 0, **sizes: Any) -> Any:
    """A causal language model of a family, float32, eval mode; `sizes` in place of those above."""
    torch.manual_seed(seed)
    model: Any = build(config_of(family, **sizes))
    for weight in model.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.3)
    return model.eval()


def build(config: Any) -> Any:
    """A model of a configuration, random, float32."""
    import transformers as t

    return t.AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def config_of(family: str, **sizes: Any) -> Any:
    """The configuration of a tiny model of a family."""
    import transformers as t

    modern, wide = MODERN | sizes, WIDE | sizes
    config: Any
    match family:
        case "llama":
            config = t.LlamaConfig(**modern, **ENDS)
        case "mistral":
            config = t.MistralConfig(**modern, **ENDS)
        case "qwen2":
            config = t.Qwen2Config(**modern, **ENDS)
        case "qwen3":
            config = t.Qwen3Config(**modern, **ENDS)
        case "gemma":
            config = t.GemmaConfig(**modern, **ENDS)
        case "gemma2":
            config = t.Gemma2Config(**modern, **ENDS, sliding_window=16, layer_types=KINDS)
        case "gemma3":
            config = t.Gemma3TextConfig(**modern, **ENDS, sliding_window=16, layer_types=KINDS)
        case "phi":
            config = t.PhiConfig(**{**modern, "tie_word_embeddings": False}, **ENDS)
        case "phi3":
            config = t.Phi3Config(**modern, **ENDS)
        case "gpt2":
            sizes = {"n_positions": modern["max_position_embeddings"], "vocab_size": modern["vocab_size"]}
            config = t.GPT2Config(**sizes, n_embd=32, n_layer=3, n_head=4, **ENDS)
        case "opt":
            config = t.OPTConfig(**wide, ffn_dim=64, word_embed_proj_dim=32, **ENDS)
        case _:
            raise ValueError(family)
    return config


KINDS = ["sliding_attention", "full_attention", "sliding_attention"]
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "phi", "phi3", "gpt2", "opt")


TOKENIZERS = ("byte-level BPE", "BPE with byte fallback", "Unigram", "WordLevel")
SPECIAL = ["<|endoftext|>", "<|im_end|>"]
LEARNT = ["the quick brown fox jumps over the lazy dog and the evil queen"] * 3


def tokenizer_of(kind: str) -> Any:
    """A tiny tokenizer of a kind: GPT-2's and Llama 3's; Llama 2's, Gemma's and Phi-3's; T5's; one of whole words."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
    from tokenizers import decoders as back

    trainer: Any
    match kind:
        case "byte-level BPE":
            made = Tokenizer(models.BPE())
            made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), back.ByteLevel()
            alphabet = pre_tokenizers.ByteLevel.alphabet()
            trainer = trainers.BpeTrainer(
                vocab_size=288, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
            )
        case "BPE with byte fallback":
            bytewise = [f"<0x{number:02X}>" for number in range(256)]
            made = Tokenizer(models.BPE(unk_token=SPECIAL[0], fuse_unk=True, byte_fallback=True))
            made.normalizer = normalizers.Replace(" ", "\u2581")
            made.decoder = back.Sequence([back.Replace("\u2581", " "), back.ByteFallback(), back.Fuse()])
            trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=[*SPECIAL, *bytewise], show_progress=False)
        case "Unigram":
            made = Tokenizer(models.Unigram())
            made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), back.Metaspace()
            trainer = trainers.UnigramTrainer(
                vocab_size=60, special_tokens=SPECIAL, unk_token=SPECIAL[0], show_progress=False
            )
        case _:
            made = Tokenizer(models.WordLevel(unk_token=SPECIAL[0]))
            made.pre_tokenizer = pre_tokenizers.Whitespace()
            trainer = trainers.WordLevelTrainer(vocab_size=60, special_tokens=SPECIAL, show_progress=False)
    made.train_from_iterator(LEARNT, trainer)
    return made


def folder(where: Path, family: str = "llama", pieces: str = TOKENIZERS[0], **sizes: Any) -> Path:
    """A tiny decoder with a tokenizer and a chat template, as transformers saves them; `sizes` others than usual."""
    import transformers as t

    where.mkdir(parents=True, exist_ok=True)
    made = tokenizer_of(pieces)
    fast = t.PreTrainedTokenizerFast(tokenizer_object=made, bos_token=SPECIAL[0], eos_token=SPECIAL[1])
    fast.chat_template = "{% for one in messages %}{{ one['content'] }} {% endfor %}"
    fast.save_pretrained(where)
    torch.manual_seed(0)
    own = {"vocab_size": made.get_vocab_size(), "max_position_embeddings": 512, **sizes}
    build(config_of(family, **own)).save_pretrained(where)
    return where
