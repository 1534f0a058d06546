"""Where things are inside an encoder of transformers: its layers, its embeddings, the six linear parts of a layer.

Stages reach inside models through this module alone, so that a new architecture is described once. A part is named by
its path inside a layer; the paths of one line in SCHEMES belong together.
"""

from typing import Any, NamedTuple

from torch import Tensor, nn

from registry.records import ShrinkError


class Parts(NamedTuple):
    """The linear parts of one layer: attention's four, and into and out of the feed-forward neurons."""

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    attention_output: nn.Linear
    ffn_in: nn.Linear
    ffn_out: nn.Linear


ATTENTION = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense")
SCHEMES = (  # the paths of Parts' fields, in their order
    (*ATTENTION, "intermediate.dense", "output.dense"),  # BERT, RoBERTa, XLM-R, CamemBERT, Data2VecText, ELECTRA, ERNIE
    (*(f"attention.{name}_lin" for name in ("q", "k", "v", "out")), "ffn.lin1", "ffn.lin2"),  # DistilBERT
)
HEAD_COUNTS = ("num_attention_heads", "n_heads")  # what attention modules call it


def layers(encoder: Any) -> nn.ModuleList:
    """The layers of an encoder, bottom first."""
    stack: nn.ModuleList = _stack(encoder).layer
    return stack


def set_layers(encoder: Any, kept: list[nn.Module]) -> None:
    """Give an encoder these layers instead, and its configuration their number."""
    _stack(encoder).layer = nn.ModuleList(kept)
    encoder.config.num_hidden_layers = len(kept)


def embeddings(encoder: Any) -> list[nn.Module]:
    """The modules that make the first layer's input of token ids, in the order they are applied."""
    projection = getattr(encoder, "embeddings_project", None)  # ELECTRA's, from narrow embeddings to the hidden width
    return [encoder.embeddings, *([] if projection is None else [projection])]


def embed(encoder: Any, input_ids: Tensor) -> Tensor:
    """Token ids [b, t] to the input of the first layer [b, t, d]."""
    first, *others = embeddings(encoder)
    hidden: Tensor = first(input_ids=input_ids)
    for module in others:
        hidden = module(hidden)
    return hidden


def paths(layer: nn.Module) -> dict[str, str]:
    """{field of Parts: its path inside a layer}; ShrinkError for a layer of an architecture that is not described."""
    known = {name for name, module in layer.named_modules() if isinstance(module, nn.Linear)}
    for scheme in SCHEMES:
        if known.issuperset(scheme):
            return dict(zip(Parts._fields, scheme, strict=True))
    raise ShrinkError(f"{type(layer).__name__} has parts that no stage knows: choose a BERT-like encoder.")


def parts(layer: nn.Module) -> Parts:
    """The linear parts of one layer, whatever the architecture calls them."""
    found: Any = {field: layer.get_submodule(path) for field, path in paths(layer).items()}
    return Parts(**found)


def replace(layer: nn.Module, field: str, linear: nn.Linear) -> None:
    """Put a linear layer in the place of one of the parts."""
    owner, _, name = paths(layer)[field].rpartition(".")
    setattr(layer.get_submodule(owner), name, linear)


def linears(layer: nn.Module) -> dict[str, nn.Linear]:
    """{path inside the layer: linear layer}: query, key, value, attention output, feed-forward in and out."""
    return dict(zip(paths(layer).values(), parts(layer), strict=True))


def set_heads(layer: nn.Module, count: int, size: int) -> None:
    """Tell the attention of a layer that its projections now hold `count` heads of `size` features."""
    attention: Any = layer.get_submodule(paths(layer)["query"].rpartition(".")[0])
    for name in HEAD_COUNTS:
        if hasattr(attention, name):
            setattr(attention, name, count)
    if hasattr(attention, "all_head_size"):
        attention.all_head_size = count * size


def attention_size(layer: nn.Module) -> int:
    """Features of a layer's queries, over all of its heads."""
    return int(parts(layer).query.out_features)


def _stack(encoder: Any) -> Any:
    return encoder.transformer if hasattr(encoder, "transformer") else encoder.encoder
