"""Encoders with mean pooling and a linear head: load, save, run in parts, and cut smaller.

A torch artifact is a folder: config.json and model.safetensors (the encoder, without pooler), tokenizer.json,
head.json and, unless it gives embeddings, head.safetensors (weight [C, d], bias [C]). All cuts are exact: what stays
computes what it did before.
"""

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from registry.records import STRICT, ShrinkError, Task
from tasks import anatomy, architectures, encoders, layout, pairs, pieces


class Head(BaseModel):
    """head.json: the label names in logit order (none: embeddings), how tokens are pooled, the longest input.

    With `multi_label` every logit answers for itself; with `pairs` the input is two texts.
    """

    model_config = STRICT
    task: Task = "classify"
    labels: tuple[str, ...]
    pooling: Literal["mean"] = "mean"
    max_length: int
    multi_label: bool = False
    pairs: bool = False


class Classifier(nn.Module):
    """A BERT-like encoder (no pooler), the mean over its real tokens, dropout and one linear layer.

    With 0 labels it is an embedding model: the layer is empty, and what comes out is the mean at length 1.
    """

    def __init__(self, encoder: Any, labels: int, separator: int | None = None) -> None:
        super().__init__()
        self.separator = separator  # the piece behind which tokens are the second text's (tasks/pairs.py)
        self.encoder = encoder
        width = int(encoder.config.hidden_size)
        self.head = nn.Linear(width, labels) if labels else no_head(width)
        self.dropout = nn.Dropout(float(architectures.value(encoder.config.to_dict(), "hidden_dropout_prob")))

    @property
    def config(self) -> Any:
        """The encoder's transformers configuration."""
        return self.encoder.config

    @property
    def layers(self) -> Any:
        """The encoder's layers, bottom first (an nn.ModuleList); one where all share their weights."""
        return anatomy.layers(self.encoder)

    @property
    def table(self) -> nn.Embedding:
        """The word pieces' embedding; the small factor where a low rank has been chosen."""
        return _table(self.encoder)

    @property
    def depth(self) -> int:
        """How many layers a text goes through."""
        return anatomy.depth(self.encoder)

    def embed(self, input_ids: Tensor) -> Tensor:
        """Token ids [b, t] to the input of the first layer [b, t, d]."""
        types = None if self.separator is None else pairs.token_types(input_ids, self.separator)
        return encoders.embed(self.encoder, input_ids, types)

    def encode(self, hidden: Tensor, attention_mask: Tensor, first: int = 0, last: int | None = None) -> Tensor:
        """Run layers first..last (exclusive) over [b, t, d]; attention_mask [b, t] is 1 at real tokens."""
        return encoders.run(self.encoder, hidden, attention_mask, first, last)

    def features(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Token ids [b, t] to the pooled vector [b, d]."""
        return mean_pool(self.encode(self.embed(input_ids), attention_mask), attention_mask)

    def classify(self, pooled: Tensor) -> Tensor:
        """Pooled vectors [b, d] to logits [b, C]."""
        logits: Tensor = self.head(self.dropout(pooled))
        return logits

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Token ids and mask [b, t] to logits [b, C], or to embeddings [b, d] of length 1 where there are no labels."""
        pooled = self.features(input_ids, attention_mask)
        return self.classify(pooled) if self.head.out_features else nn.functional.normalize(pooled, dim=-1)


def no_head(width: int) -> nn.Linear:
    """A linear layer without outputs, which torch makes only with a warning."""
    empty = nn.Linear(width, 1)
    empty.weight, empty.bias = nn.Parameter(empty.weight[:0].detach()), nn.Parameter(empty.bias[:0].detach())
    empty.out_features = 0
    return empty


def mean_pool(hidden: Tensor, attention_mask: Tensor) -> Tensor:
    """Mean of [b, t, d] over the tokens where attention_mask [b, t] is 1, giving [b, d]."""
    mask = attention_mask.to(torch.promote_types(hidden.dtype, torch.float32))[:, :, None]  # bf16 cannot count so far
    return (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)


def load_encoder(directory: Path) -> Any:
    """The encoder of a folder (transformers' or ours, also with pruned heads), in eval mode, without pooler."""
    from transformers import AutoConfig

    described = layout.read_json(directory / "config.json")
    layout.check_architecture(described)
    layout.check_weights(directory, described)
    try:
        config = AutoConfig.from_pretrained(directory)
    except Exception as error:  # of several kinds, with the field in the text
        said = " ".join(str(error).split())[:200]
        raise ShrinkError(f"config.json will not do ({said}): give the model's own config.json.") from None
    encoder = encoders.build(config)
    kept = int(getattr(config, "kept_heads", None) or 0)
    for layer in anatomy.layers(encoder) if kept else ():
        resize_heads(layer, kept, anatomy.head_size(encoder))
    if rank := int(getattr(config, "embedding_rank", None) or 0):
        wide = encoder.get_input_embeddings()
        rows, directions = torch.zeros(wide.num_embeddings, rank), torch.zeros(rank, wide.embedding_dim)
        encoder.set_input_embeddings(factored(rows, directions, wide.padding_idx))
    _fill(encoder, load_file(directory / "model.safetensors"))
    if config.model_type == "mobilebert":  # its words see their neighbours: the one beside the last must be nothing
        torch.nn.init.zeros_(_table(encoder).weight[int(config.pad_token_id or 0)])
    return encoder.float().eval()


def load_tokenizer(directory: Path, max_length: int) -> Tokenizer:
    """tokenizer.json of a folder, without padding and truncating at max_length tokens."""
    path = directory / "tokenizer.json"
    if not path.is_file():
        raise ShrinkError("tokenizer.json is missing in the model folder: save the fast tokenizer beside the weights.")
    return _truncating(pieces.opened(path), max_length)


def load(directory: Path) -> tuple[Classifier, Tokenizer, Head]:
    """A torch artifact: the classifier in eval mode, its tokenizer and its head record."""
    if not (directory / "head.json").is_file():
        raise ShrinkError("head.json is missing in the model folder: put a finetune or adopt stage before this one.")
    head = Head.model_validate(layout.read_json(directory / "head.json"))
    encoder, tokenizer = load_encoder(directory), load_tokenizer(directory, head.max_length)
    model = Classifier(encoder, len(head.labels), separator_of(encoder, tokenizer) if head.pairs else None)
    if head.labels:
        model.head.load_state_dict(load_file(directory / "head.safetensors"))
    return model.eval(), tokenizer, head


def separator_of(encoder: Any, tokenizer: Tokenizer) -> int | None:
    """The separator of two texts where encoder and tokenizer tell their tokens apart by type, else None."""
    found = pairs.separator(tokenizer)
    return found if int(getattr(encoder.config, "type_vocab_size", 0) or 0) > 1 else None


def save(directory: Path, model: Classifier, tokenizer: Tokenizer, head: Head) -> None:
    """Write a torch artifact; the bytes depend on the model, tokenizer and head alone."""
    model.config.architectures = [type(model.encoder).__name__]
    model.config.save_pretrained(directory)
    parts = [(encoders.joined(model.encoder), "model"), (model.head.state_dict(), "head")]
    for state, name in parts if head.labels else parts[:1]:
        weights = {key: value.detach().contiguous() for key, value in state.items()}
        save_file(weights, directory / f"{name}.safetensors", metadata={"format": "pt"})
    _truncating(tokenizer, head.max_length).save(str(directory / "tokenizer.json"), pretty=False)
    text = json.dumps(head.model_dump(mode="json"), indent=2, sort_keys=True, ensure_ascii=False)
    (directory / "head.json").write_text(text + "\n", encoding="utf-8")


def count_parameters(model: nn.Module) -> int:
    """All weights of a module."""
    return sum(parameter.numel() for parameter in model.parameters())


def keep_layers(model: Classifier, layers: list[int]) -> None:
    """Keep the named layers (indices from the bottom), in the order given."""
    count = model.depth
    if not layers or any(not 0 <= index < count for index in layers) or sorted(set(layers)) != layers:
        raise ShrinkError(f"layers is {layers} but must be rising indices from 0 to {count - 1}: correct the list.")
    anatomy.keep_layers(model.encoder, layers)


def slice_linear(linear: nn.Linear, rows: Tensor | None = None, columns: Tensor | None = None) -> nn.Linear:
    """A copy of a linear layer with only the named outputs (rows) and inputs (columns)."""
    weight, bias = linear.weight.detach(), None if linear.bias is None else linear.bias.detach()
    if rows is not None:
        weight, bias = weight[rows], None if bias is None else bias[rows]
    if columns is not None:
        weight = weight[:, columns]
    small = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    small.load_state_dict({"weight": weight.clone()} | ({} if bias is None else {"bias": bias.clone()}))
    return small


def slice_ffn(layer: Any, kept: list[int]) -> None:
    """Keep the named hidden neurons of one layer's feed-forward part."""
    index = torch.tensor(kept, dtype=torch.long)
    parts = anatomy.parts(layer)
    anatomy.replace(layer, "ffn_in", slice_linear(parts.ffn_in, rows=index))
    anatomy.replace(layer, "ffn_out", slice_linear(parts.ffn_out, columns=index))
    if (gate := anatomy.gate(layer)) is not None:
        anatomy.replace(layer, "gate", slice_linear(gate, rows=index))


def slice_heads(layer: Any, kept: list[int], head_size: int) -> None:
    """Keep the named attention heads of one layer; the size of a head stays."""
    index = torch.cat([torch.arange(head * head_size, (head + 1) * head_size) for head in kept])
    parts = anatomy.parts(layer)
    for name in ("query", "key", "value"):
        anatomy.replace(layer, name, slice_linear(getattr(parts, name), rows=index))
    anatomy.replace(layer, "attention_output", slice_linear(parts.attention_output, columns=index))
    anatomy.set_heads(layer, len(kept), head_size)


def resize_heads(layer: Any, count: int, head_size: int) -> None:
    """Give one layer's attention fresh weights for so many heads, also more than the hidden size has room for."""
    parts = anatomy.parts(layer)
    for name in ("query", "key", "value"):
        old = getattr(parts, name)
        fresh = nn.Linear(old.in_features, count * head_size, bias=old.bias is not None)
        anatomy.replace(layer, name, fresh)
    out = parts.attention_output
    fresh = nn.Linear(count * head_size, out.out_features, bias=out.bias is not None)
    anatomy.replace(layer, "attention_output", fresh)
    anatomy.set_heads(layer, count, head_size)


def slice_vocabulary(model: Classifier, kept: list[int], pad: int) -> None:
    """Keep the named rows of the token embedding; `pad` is the new index of the padding token."""
    rows = model.table.weight.detach()[torch.tensor(kept)].clone()
    table = nn.Embedding(len(kept), rows.shape[1], padding_idx=pad)
    table.load_state_dict({"weight": rows})
    if isinstance(whole := model.encoder.get_input_embeddings(), nn.Sequential):
        whole.rows = table
    else:
        model.encoder.set_input_embeddings(table)
    model.config.vocab_size, model.config.pad_token_id = len(kept), pad


def factored(rows: Tensor, directions: Tensor, pad: int | None) -> nn.Sequential:
    """An embedding of two trainable factors: rows [pieces, rank], then a product with directions [rank, d]."""
    expand = nn.Linear(rows.shape[1], directions.shape[1], bias=False)
    expand.load_state_dict({"weight": directions.T.contiguous()})
    table = nn.Embedding.from_pretrained(rows, freeze=False, padding_idx=pad)
    return nn.Sequential(OrderedDict(rows=table, expand=expand))


def rename_tokens(model: Classifier, renumbered: dict[int, int]) -> None:
    """Give the special tokens that the configuration names their new numbers; one that is gone is named no more."""
    for name in ("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"):
        if isinstance(number := getattr(model.config, name, None), int):
            setattr(model.config, name, renumbered.get(number))


def slice_positions(model: Classifier, count: int) -> None:
    """Keep the first `count` position embeddings: longer inputs are truncated by the tokenizer anyway."""
    encoders.cut_positions(model.encoder, count)


def _table(encoder: Any) -> nn.Embedding:
    found = encoder.get_input_embeddings()
    return found.rows if isinstance(found, nn.Sequential) else found  # type: ignore[return-value]


def _fill(encoder: Any, weights: dict[str, Tensor]) -> None:
    """Load the encoder's own weights out of a checkpoint that may carry a prefix, a pooler or another head."""
    described = encoder.config.to_dict()
    plain = encoders.apart(encoder, {layout.plain_name(name, described): value for name, value in weights.items()})
    state = encoder.state_dict()
    wrong = [name for name, value in state.items() if name not in plain or plain[name].shape != value.shape]
    if wrong:
        raise ShrinkError(f"model.safetensors lacks {wrong[0]} in the size that config.json says: use a matching pair.")
    encoder.load_state_dict({name: plain[name] for name in state})


def _truncating(tokenizer: Tokenizer, max_length: int) -> Tokenizer:
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length)
    return tokenizer
