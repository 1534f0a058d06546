"""The hidden width of an encoder cut to fewer features, everywhere it appears: embeddings, norms, every linear layer.

Unlike the other cuts this one is not exact: a norm over fewer features has another mean and spread, so that the student
needs distillation behind it. The size of a head stays; how many heads there are does too, so that their features may
be more than the width. config.json then has num_attention_heads = hidden_size / size of a head, as transformers'
configurations need it, and kept_heads says how many heads every layer really has.
"""

from typing import TYPE_CHECKING, Any

from registry.records import ShrinkError

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.models import Classifier

ARCHITECTURES = ("bert", "roberta", "xlm-roberta", "camembert", "data2vec-text", "ernie")


def check(where: str, architecture: str, wanted: int, present: int, head_size: int, factorised: bool) -> None:
    """ShrinkError when an encoder of this width cannot be cut to the wanted one."""
    if architecture not in ARCHITECTURES:
        raise ShrinkError(
            f"{where}: hidden is {wanted} but the width of {architecture!r} encoders cannot be cut, of "
            f"{', '.join(ARCHITECTURES[:-1])} and {ARCHITECTURES[-1]} alone: leave hidden out."
        )
    if factorised:
        raise ShrinkError(f"{where}: hidden is {wanted} but the embedding is factorised: put prune/low_rank behind.")
    if wanted > present:
        raise ShrinkError(f"{where}: hidden is {wanted} but the model has only {present} there: give at most that.")
    if wanted % head_size:
        raise ShrinkError(
            f"{where}: hidden is {wanted} but an attention head has {head_size} features: give a multiple of that."
        )


def cut(model: "Classifier", kept: list[int], heads: int) -> None:
    """Keep the named features of the hidden width, in their order, in a model whose layers have `heads` heads."""
    import torch
    from torch import nn

    from tasks import anatomy, models

    index, head_size = torch.tensor(kept, dtype=torch.long), anatomy.head_size(model.encoder)
    for layer in model.layers:
        for field in anatomy.paths(layer):
            old = layer.get_submodule(anatomy.paths(layer)[field])
            side = "rows" if field in {"attention_output", "ffn_out"} else "columns"
            anatomy.replace(layer, field, models.slice_linear(old, **{side: index}))
    for module in model.encoder.modules():
        if isinstance(module, nn.LayerNorm):
            _take(module, index)
            module.normalized_shape = (len(kept),)
    for module in model.encoder.embeddings.modules():
        if isinstance(module, nn.Embedding):
            module.weight = nn.Parameter(module.weight.detach()[:, index].clone())
            module.embedding_dim = len(kept)
    labels = model.head.out_features  # an embedding model has none
    model.head = models.slice_linear(model.head, columns=index) if labels else models.no_head(len(kept))
    model.config.hidden_size = len(kept)
    model.config.num_attention_heads, model.config.kept_heads = len(kept) // head_size, heads


def _take(norm: Any, index: "Tensor") -> None:
    """Keep the named features of a norm's weight and bias."""
    from torch import nn

    for name in ("weight", "bias"):
        setattr(norm, name, nn.Parameter(getattr(norm, name).detach()[index].clone()))
