"""Tiny decoders with random weights, one of each family that is known."""

from pathlib import Path
from typing import Any

import torch

SIZES: dict[str, Any] = {"vocab_size": 64, "max_position_embeddings": 64, "tie_word_embeddings": True}
WIDE: dict[str, Any] = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 3, **SIZES}
MODERN: dict[str, Any] = {"intermediate_size": 64, "num_key_value_heads": 2, "head_dim": 8, **WIDE}
ENDS = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}


def tiny(family: str, seed: int = 0) -> Any:
    """A causal language model of a family, float32, eval mode."""
    import transformers as t

    config: Any
    match family:
        case "llama":
            config = t.LlamaConfig(**MODERN, **ENDS)
        case "mistral":
            config = t.MistralConfig(**MODERN, **ENDS)
        case "qwen2":
            config = t.Qwen2Config(**MODERN, **ENDS)
        case "qwen3":
            config = t.Qwen3Config(**MODERN, **ENDS)
        case "gemma":
            config = t.GemmaConfig(**MODERN, **ENDS)
        case "gemma3":
            config = t.Gemma3TextConfig(**MODERN, **ENDS, sliding_window=16, layer_types=KINDS)
        case "phi":
            config = t.PhiConfig(**{**MODERN, "tie_word_embeddings": False}, **ENDS)
        case "phi3":
            config = t.Phi3Config(**MODERN, **ENDS)
        case "gpt2":
            config = t.GPT2Config(vocab_size=64, n_positions=64, n_embd=32, n_layer=3, n_head=4, **ENDS)
        case "opt":
            config = t.OPTConfig(**WIDE, ffn_dim=64, word_embed_proj_dim=32, **ENDS)
        case _:
            raise ValueError(family)
    torch.manual_seed(seed)
    model: Any = t.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for weight in model.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.3)
    return model.eval()


KINDS = ["sliding_attention", "full_attention", "sliding_attention"]
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma3", "phi", "phi3", "gpt2", "opt")


def folder(where: Path) -> Path:
    """A tiny Llama with a byte-level BPE of all bytes and a chat template, as transformers saves them."""
    import transformers as t
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from tokenizers import decoders as back

    where.mkdir(parents=True, exist_ok=True)
    special = ["<|endoftext|>", "<|im_end|>"]
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), back.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=288, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(["the quick brown fox jumps over the lazy dog and the evil queen"] * 3, trainer)
    fast = t.PreTrainedTokenizerFast(tokenizer_object=made, bos_token=special[0], eos_token=special[1])
    fast.chat_template = "{% for one in messages %}{{ one['content'] }} {% endfor %}"
    fast.save_pretrained(where)
    torch.manual_seed(0)
    config = t.LlamaConfig(**{**MODERN, "vocab_size": made.get_vocab_size(), "max_position_embeddings": 512}, **ENDS)
    model: Any = t.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(where)
    return where
