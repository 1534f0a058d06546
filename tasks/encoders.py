"""Encoders of transformers built, run in parts and stored, whatever their architecture.

Layers are run by transformers' own forward: `run` gives it a copy of the encoder that shares all weights, with its
embeddings already computed and its list of layers cut to those wanted. Encoders shaped like BERT need no more than one
mask, so that their layers are called one after the other.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from tasks import anatomy, architectures

HIDDEN_BIAS = -1e4  # added to the attention scores of padding: exp(-1e4) is 0 in every float format
FUSED = {  # ModernBERT keeps several linear layers in one matrix; here they are apart, in files together
    "Wqkv": ("query", "key", "value"),
    "Wi": ("ffn_in", "gate"),
}


class Beside(nn.Module):
    """Linear layers over one input, their outputs side by side: what transformers keeps in one matrix."""

    def __init__(self, whole: nn.Linear, names: tuple[str, ...]) -> None:
        super().__init__()
        for name, weight in zip(names, whole.weight.detach().chunk(len(names)), strict=True):
            part = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
            part.load_state_dict({"weight": weight.clone()})
            self.add_module(name, part)

    def forward(self, hidden: Tensor) -> Tensor:
        """[.., d] to all outputs [.., sum]."""
        return torch.cat([part(hidden) for part in self.children()], dim=-1)


class Given(nn.Module):
    """Stands where the embeddings were: gives back the vectors [b, t, d] among what it is called with."""

    def forward(self, *args: Any, **named: Any) -> Tensor:
        """The first three-dimensional float tensor."""
        tensors = [one for one in (*args, *named.values()) if torch.is_tensor(one)]
        return next(one for one in tensors if one.ndim == 3 and one.is_floating_point())


def build(config: Any) -> Any:
    """A fresh encoder of a configuration: without pooler, attention by torch's own kernel where it can, parts apart."""
    from transformers import AutoModel
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    kind = MODEL_MAPPING[type(config)]
    for name in ("attention_probs_dropout_prob", "attention_dropout"):
        if hasattr(config, name):
            setattr(config, name, 0.0)  # a CPU has no fused attention with dropout: steps cost a third less
    known = kind.__init__.__code__.co_varnames
    options: dict[str, Any] = {"add_pooling_layer": False} if "add_pooling_layer" in known else {}
    encoder = AutoModel.from_config(config, attn_implementation="sdpa" if kind._supports_sdpa else "eager", **options)
    if getattr(encoder, "pooler", None) is not None:  # SqueezeBERT always has one, and calls it
        encoder.pooler = nn.Identity()
    for path, module in list(encoder.named_modules()):
        owner, _, name = path.rpartition(".")
        if isinstance(module, nn.Linear) and (names := FUSED.get(name)) is not None:
            setattr(encoder.get_submodule(owner), name, Beside(module, names))
    return encoder


def embed(encoder: Any, input_ids: Tensor, token_types: Tensor | None = None) -> Tensor:
    """Token ids [b, t] to the input of the first layer [b, t, d]; token_types [b, t] mark pairs' second texts by 1."""
    first, *others = anatomy.embeddings(encoder)
    hidden: Tensor = first(input_ids=input_ids, **({} if token_types is None else {"token_type_ids": token_types}))
    for module in others:
        hidden = module(hidden)
    return hidden


def run(encoder: Any, hidden: Tensor, attention_mask: Tensor, first: int = 0, last: int | None = None) -> Tensor:
    """Layers first..last (exclusive) over [b, t, d]; attention_mask [b, t] is 1 at real tokens.

    After the last layer comes the final norm of architectures that have one.
    """
    chosen = range(anatomy.depth(encoder))[first:last]
    if str(encoder.config.model_type) in (*architectures.BERT_SHAPED, "distilbert"):
        bias = ((1 - attention_mask.to(hidden.dtype)) * HIDDEN_BIAS)[:, None, None, :]
        for index in chosen:
            hidden = anatomy.layers(encoder)[index](hidden, bias)
        return hidden
    if not chosen:
        return hidden
    ran = _slice(encoder, chosen)(inputs_embeds=hidden, attention_mask=attention_mask)
    result: Tensor = ran.last_hidden_state
    return result


def positions(encoder: Any) -> int:
    """Tokens of the longest text that an encoder can read."""
    return int(encoder.config.max_position_embeddings) - architectures.offset(encoder.config.to_dict())


def cut_positions(encoder: Any, count: int) -> None:
    """Keep the rows of a position table that texts of `count` tokens need, where there is a table to cut."""
    config, parts = encoder.config, encoder.embeddings
    path = "encoder.embed_positions" if config.model_type == "roformer" else "embeddings.position_embeddings"
    owner, _, name = path.rpartition(".")
    table = getattr(encoder.get_submodule(owner), name, None)
    if table is None:
        return
    rows = min(count + architectures.offset(config.to_dict()), table.num_embeddings)
    kept = table.weight.detach()[:rows].clone()
    if type(table) is nn.Embedding:
        smaller = nn.Embedding.from_pretrained(kept, freeze=False, padding_idx=table.padding_idx)
        setattr(encoder.get_submodule(owner), name, smaller)
    else:  # RoFormer's, which is no trained table
        table.weight, table.num_embeddings = nn.Parameter(kept, requires_grad=False), rows
    for buffer in ("position_ids", "token_type_ids"):
        if hasattr(parts, buffer):
            setattr(parts, buffer, getattr(parts, buffer)[:, :rows])
    config.max_position_embeddings = rows


def joined(encoder: Any) -> dict[str, Tensor]:
    """The weights of an encoder by transformers' names: what is apart here stands in one matrix there."""
    state: dict[str, Tensor] = {name: one.detach() for name, one in encoder.state_dict().items()}
    for path, module in encoder.named_modules():
        if isinstance(module, Beside):
            names = [f"{path}.{name}.weight" for name, _ in module.named_children()]
            state[f"{path}.weight"] = torch.cat([state.pop(name) for name in names])
    return state


def apart(encoder: Any, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights by transformers' names as this encoder has them: the reverse of `joined`."""
    result = dict(weights)
    for path, module in encoder.named_modules():
        if isinstance(module, Beside) and f"{path}.weight" in result:
            names = [name for name, _ in module.named_children()]
            whole = result.pop(f"{path}.weight")
            result |= {f"{path}.{name}.weight": one for name, one in zip(names, whole.chunk(len(names)), strict=True)}
    return result


def _with(module: Any, **parts: nn.Module) -> Any:
    """A copy of a module that shares all its weights but has other parts."""
    changed = copy.copy(module)
    changed._modules = {**module._modules, **parts}
    return changed


def _slice(encoder: Any, chosen: range) -> Any:
    """A copy of an encoder that shares its weights, takes embedded texts and has only the chosen layers."""
    owner_path, _, name = anatomy.stack_path(encoder).rpartition(".")
    new: dict[str, nn.Module] = {"embeddings": Given()}
    if getattr(encoder, "embeddings_project", None) is not None:
        new["embeddings_project"] = nn.Identity()
    if hasattr(encoder, "final_norm") and chosen.stop < anatomy.depth(encoder):
        new["final_norm"] = nn.Identity()
    if anatomy.shared(encoder):
        below = _with(encoder.encoder, embedding_hidden_mapping_in=nn.Identity())
        below.config = copy.copy(encoder.config)
        below.config.num_hidden_layers = len(chosen)
        return _with(encoder, **new, encoder=below)
    stack = nn.ModuleList([anatomy.layers(encoder)[index] for index in chosen])
    if owner_path:
        new[owner_path] = _with(encoder.get_submodule(owner_path), **{name: stack})
    else:
        new[name] = stack
    return _with(encoder, **new)
