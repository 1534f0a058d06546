"""Tiny seeded encoders of every architecture that the stages know, and tokenizers of three kinds, shared by tests."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from tasks import encoders
from tasks import models as classifiers
from tests.tasks.test_torch_stages import make_texts, make_tokenizer

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    "initializer_range": 0.2,
}
OWN: dict[str, dict[str, Any]] = {  # what an architecture needs beside the sizes
    "electra": {"embedding_size": 16},
    "albert": {"embedding_size": 16},
    "roformer": {"embedding_size": 16},
    "deberta-v2": {
        **{"relative_attention": True, "position_buckets": 16, "pos_att_type": ["p2c", "c2p"], "share_att_key": True},
        **{"norm_rel_ebd": "layer_norm", "position_biased_input": False, "type_vocab_size": 0},
    },
    "modernbert": {"local_attention": 8},
    "mobilebert": {"embedding_size": 16, "intra_bottleneck_size": 16, "num_feedforward_networks": 2},
    "squeezebert": {"embedding_size": 32},
}
TOKENIZERS = ("WordPiece", "BPE", "Unigram")


def tokenizer_of(kind: str, pad: int = 0) -> Tokenizer:
    """A tiny tokenizer whose padding token has the wanted number."""
    if kind == "WordPiece" and pad == 0:
        return make_tokenizer()
    names = ["[CLS]", "[SEP]", "[UNK]", "[MASK]"]
    specials = [*names[:pad], "[PAD]", *names[pad:]]
    texts = [text for text, _ in make_texts(300, 1)] + ["zebras jump over a lazy quick brown fox with vivid joy"]
    match kind:
        case "WordPiece":
            tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
            tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
            trainer: Any = trainers.WordPieceTrainer(vocab_size=160, special_tokens=specials, show_progress=False)
        case "BPE":
            tokenizer = Tokenizer(models.BPE())
            tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
            tokenizer.decoder = decoders.ByteLevel()
            letters = pre_tokenizers.ByteLevel.alphabet()
            trainer = trainers.BpeTrainer(
                vocab_size=340, special_tokens=specials, initial_alphabet=letters, show_progress=False
            )
        case _:
            tokenizer = Tokenizer(models.Unigram())
            tokenizer.normalizer = normalizers.NFKC()
            tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
            tokenizer.decoder = decoders.Metaspace()
            trainer = trainers.UnigramTrainer(
                vocab_size=120, special_tokens=specials, unk_token="[UNK]", show_progress=False
            )
    tokenizer.train_from_iterator(texts, trainer)
    ends = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return tokenizer


def config_of(kind: str, tokenizer: Tokenizer) -> Any:
    """The configuration of a tiny encoder for a tokenizer."""
    from transformers import AutoConfig

    named = {"pad": "[PAD]", "bos": "[CLS]", "eos": "[SEP]", "cls": "[CLS]", "sep": "[SEP]"}
    tokens = {f"{name}_token_id": tokenizer.token_to_id(token) for name, token in named.items()}
    wanted = tokens if kind == "modernbert" else {"pad_token_id": tokens["pad_token_id"]}
    sizes = {"vocab_size": tokenizer.get_vocab_size(), **SIZES, **wanted, **OWN.get(kind, {})}
    if kind == "distilbert":
        sizes["hidden_dim"] = sizes.pop("intermediate_size")
    return AutoConfig.for_model(kind, **sizes)


def pad_number(kind: str) -> int:
    """Where a tiny encoder of an architecture has its padding token."""
    return 1 if kind in {"roberta", "xlm-roberta", "camembert", "data2vec-text", "mpnet"} else 0


def make_encoder(kind: str, tokenizer: Tokenizer) -> Any:
    """A tiny random encoder in eval mode."""
    torch.manual_seed(0)
    encoder = encoders.build(config_of(kind, tokenizer)).eval()
    if kind == "mobilebert":
        torch.nn.init.zeros_(encoder.get_input_embeddings().weight[0])
    return encoder


def save_teacher(folder: Path, kind: str, pieces: str = "WordPiece") -> Path:
    """A model folder of an architecture with a tokenizer of a kind, as a user would name it."""
    folder.mkdir(parents=True)
    tokenizer = tokenizer_of(pieces, pad_number(kind))
    torch.manual_seed(1)
    model = classifiers.Classifier(make_encoder(kind, tokenizer), 2)
    classifiers.save(folder, model, tokenizer, classifiers.Head(labels=("negative", "positive"), max_length=16))
    return folder
