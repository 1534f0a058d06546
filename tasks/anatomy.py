"""Where things are inside an encoder of transformers: its layers, its embeddings, the linear parts of a layer.

Stages reach inside models through this module alone, so that a new architecture is described once, here and in
tasks/architectures.py. A part is named by its path inside a layer; the paths of one line in SCHEMES belong together.
"""

from typing import Any, NamedTuple

from torch import Tensor, nn

from registry.records import ShrinkError
from tasks import architectures


class Parts(NamedTuple):
    """The linear parts of one layer: attention's four, and into and out of the feed-forward neurons."""

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    attention_output: nn.Linear
    ffn_in: nn.Linear
    ffn_out: nn.Linear


ATTENTION = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense")
SCHEMES = (  # the paths of Parts' fields, in their order, and of the gate that multiplies the neurons
    (*ATTENTION, "intermediate.dense", "output.dense"),  # BERT, RoBERTa and its like, ELECTRA, ERNIE, RoFormer
    (*(f"attention.{name}_lin" for name in ("q", "k", "v", "out")), "ffn.lin1", "ffn.lin2"),  # DistilBERT
    (*(f"attention.attn.{name}" for name in "qkvo"), "intermediate.dense", "output.dense"),  # MPNet
    (*(f"attention.{name}" for name in ("query", "key", "value", "dense")), "ffn", "ffn_output"),  # ALBERT
    (*(f"{name}_proj" for name in ATTENTION[:3]), *ATTENTION[3:], "intermediate.dense", "output.dense"),  # DeBERTa
    (*(f"attn.Wqkv.{name}" for name in ("query", "key", "value")), "attn.Wo", "mlp.Wi.ffn_in", "mlp.Wo", "mlp.Wi.gate"),
    (*(f"self_attn.{name}_proj" for name in "qkvo"), "mlp.up_proj", "mlp.down_proj", "mlp.gate_proj"),  # NomicBERT
)
HEAD_COUNTS = ("num_attention_heads", "n_heads")  # what attention modules call it


def stack_path(encoder: Any) -> str:
    """Where an encoder keeps its layers."""
    return architectures.STACKS.get(str(encoder.config.model_type), "encoder.layer")


def layers(encoder: Any) -> nn.ModuleList:
    """The layers of an encoder, bottom first; one that stands for all where they share their weights."""
    stack: nn.ModuleList = encoder.get_submodule(stack_path(encoder))
    return stack


def depth(encoder: Any) -> int:
    """How many layers a text goes through."""
    return int(encoder.config.num_hidden_layers)


def shared(encoder: Any) -> bool:
    """Whether all layers share their weights."""
    return bool(encoder.config.model_type == "albert")


def layer_at(encoder: Any, index: int) -> nn.Module:
    """The layer that a text goes through as number `index`."""
    return layers(encoder)[0 if shared(encoder) else index]


def span(encoder: Any, index: int) -> tuple[int, int]:
    """First and last (exclusive) place at which the weights of layers()[index] are applied."""
    return (0, depth(encoder)) if shared(encoder) else (index, index + 1)


def keep_layers(encoder: Any, kept: list[int]) -> None:
    """Keep the layers of these numbers in an encoder, and say so in its configuration."""
    config = encoder.config
    if config.model_type == "modernbert" and kept[0] != 0:
        raise ShrinkError(f"layers is {kept} but {architectures.FIRST}")
    if not shared(encoder):
        owner, _, name = stack_path(encoder).rpartition(".")
        stack = layers(encoder)
        setattr(encoder.get_submodule(owner), name, nn.ModuleList([stack[index] for index in kept]))
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[index] for index in kept]
    config.num_hidden_layers = len(kept)


def embeddings(encoder: Any) -> list[nn.Module]:
    """The modules that make the first layer's input of token ids, in the order they are applied."""
    after = (getattr(encoder, "embeddings_project", None), mapping(encoder))  # from narrow embeddings to the width
    return [encoder.embeddings, *(module for module in after if module is not None)]


def paths(layer: nn.Module) -> dict[str, str]:
    """{field of Parts, perhaps `gate`: its path inside a layer}; ShrinkError where the parts are not linear layers."""
    known = {name for name, module in layer.named_modules() if isinstance(module, nn.Linear)}
    for scheme in SCHEMES:
        if known.issuperset(scheme):
            return dict(zip((*Parts._fields, "gate"), scheme, strict=False))
    raise ShrinkError(f"{type(layer).__name__} has no linear parts that this stage could reach: drop the stage.")


def parts(layer: nn.Module) -> Parts:
    """The linear parts of one layer, whatever the architecture calls them."""
    found: Any = {field: layer.get_submodule(path) for field, path in paths(layer).items() if field != "gate"}
    return Parts(**found)


def gate(layer: nn.Module) -> nn.Linear | None:
    """The linear layer whose output multiplies the feed-forward neurons (GLU), where there is one."""
    path = paths(layer).get("gate")
    found: Any = layer.get_submodule(path) if path else None
    return found if isinstance(found, nn.Linear) else None


def replace(layer: nn.Module, field: str, linear: nn.Linear) -> None:
    """Put a linear layer in the place of one of the parts, or of the gate."""
    owner, _, name = paths(layer)[field].rpartition(".")
    setattr(layer.get_submodule(owner), name, linear)


def linears(layer: nn.Module) -> dict[str, nn.Linear]:
    """{path inside the layer: linear layer}, all of them; ShrinkError where the parts are not linear layers."""
    paths(layer)
    return {name: module for name, module in layer.named_modules() if isinstance(module, nn.Linear)}


def set_heads(layer: nn.Module, count: int, size: int) -> None:
    """Tell the attention of a layer that its projections now hold `count` heads of `size` features."""
    attention: Any = layer.get_submodule(paths(layer)["query"].rpartition(".")[0])
    for name in HEAD_COUNTS:
        if hasattr(attention, name):
            setattr(attention, name, count)
    if hasattr(attention, "all_head_size"):
        attention.all_head_size = count * size


def head_size(encoder: Any) -> int:
    """Features of one attention head."""
    return architectures.letters(encoder.config.to_dict())["s"]


def attention_size(layer: nn.Module) -> int:
    """Features of a layer's queries, over all of its heads."""
    return int(parts(layer).query.out_features)


def projected(layer: Any, hidden: Tensor) -> list[Tensor]:
    """Queries, keys and values [b, t, inner] that a layer makes of its input [b, t, d], before any rotation."""
    hidden = layer.attn_norm(hidden) if hasattr(layer, "attn_norm") else hidden
    return [part(hidden) for part in parts(layer)[:3]]


def mapping(encoder: Any) -> nn.Module | None:
    """ALBERT's map from narrow embeddings to the hidden width, where there is one."""
    found: nn.Module | None = getattr(getattr(encoder, "encoder", None), "embedding_hidden_mapping_in", None)
    return found
