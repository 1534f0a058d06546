"""What a folder's config.json, tokenizer.json and weights must agree in for a decoder to be possible, without loading.

A model that is refused here would fail, or compute something else, in the first stage or behind it.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from registry.records import ShrinkError
from tasks import architectures, weights
from tasks.generate import families, shapes

if TYPE_CHECKING:
    from tasks.generate.header import Decoder

BEYOND = {"gemma3_text": 1}  # pieces of a tokenizer that its model has not: one that stands for an image


def check_kind(config: dict[str, Any]) -> None:
    """Refuse an encoder, which writes no text, what has one beside its decoder, and what is quantized already."""
    kind, done = str(config.get("model_type")), config.get("quantization_config")
    if kind in architectures.known() or kind in architectures.STRANGERS or config.get("is_encoder_decoder"):
        raise ShrinkError(
            f"model_type is '{kind}', which has an encoder, and task generate takes a decoder alone: choose a language "
            "model such as a Llama, or task classify or embed."
        )
    if done:
        method = done.get("quant_method", "another tool") if isinstance(done, dict) else done
        raise ShrinkError(
            f"config.json has quantization_config: the model is already quantized by {method!s:.40}; give the one that "
            "it was made of."
        )


def check_numbers(config: dict[str, Any], decoder: "Decoder") -> None:
    """Refuse heads that cannot be shared out, and positions that turn by no angle."""
    check_heads(decoder.queries, decoder.groups, "config.json", ("num_attention_heads", "num_key_value_heads"))
    if not config.get("head_dim") and decoder.width % decoder.queries:
        raise ShrinkError(
            f"config.json has hidden_size = {decoder.width}, which its num_attention_heads = {decoder.queries} does "
            "not divide: give a decoder's own."
        )
    rope = config.get("rope_parameters") or {}
    told = [config, *(one for one in (rope, *rope.values()) if isinstance(one, dict))] if isinstance(rope, dict) else []
    for theta in (one["rope_theta"] for one in told if one.get("rope_theta") is not None):
        check_theta(theta, "config.json", "rope_theta")


def check_heads(queries: int, groups: int, file: str, names: tuple[str, str]) -> None:
    """Heads of queries share those of keys and values alike."""
    if queries % groups:
        raise ShrinkError(
            f"{file} has {names[0]} = {queries}, which its {names[1]} = {groups} does not divide: give a decoder's own."
        )


def check_theta(theta: Any, file: str, name: str) -> None:
    """The base of the angles by which positions turn."""
    if isinstance(theta, bool) or not isinstance(theta, int | float) or not 0 < theta < float("inf"):
        raise ShrinkError(f"{file} has {name} = {theta!r:.60} but needs a number above 0: give a decoder's own.")


def check_vocabulary(said: dict[str, Any], decoder: "Decoder") -> None:
    """Refuse a tokenizer of more pieces than the model has rows for."""
    model, added = said.get("model"), said.get("added_tokens")
    held = model.get("vocab") if isinstance(model, dict) else None
    ids = list(held.values()) if isinstance(held, dict) else list(range(len(held or ())))
    ids += [one.get("id") for one in added or () if isinstance(one, dict)]
    most = max((one for one in ids if isinstance(one, int)), default=-1) + 1
    if most > decoder.pieces + BEYOND.get(decoder.family, 0):
        raise ShrinkError(
            f"tokenizer.json has {most} pieces but config.json has vocab_size = {decoder.pieces}: use a matching pair."
        )


def check_weights(tensors: Mapping[str, Any], config: dict[str, Any], decoder: "Decoder") -> None:
    """Refuse weights that lack, have other sizes, are no floats, or lie in layers that the configuration leaves out."""
    for name, shape in shapes.wanted(decoder, config).items():
        held = tensors.get(name)
        if held is None or tuple(held["shape"]) != shape:
            has = "no such weight" if held is None else f"{held['shape']}"
            raise ShrinkError(
                f"'model.safetensors' must have {name} in the size {list(shape)} by what config.json says, but it has "
                f"{has}: use a matching pair."
            )
    for name, held in tensors.items():
        if name.endswith(".weight") and held["dtype"] not in weights.FLOATS:
            raise ShrinkError(
                f"model.safetensors holds {name} as {held['dtype']}: save the model as float32 or float16."
            )
    if (where := families.ANATOMIES.get(decoder.family)) is not None:
        numbers = (re.match(rf"{re.escape(where.layers)}\.(\d+)\.", name) for name in tensors)
        most = max((int(found[1]) for found in numbers if found), default=0) + 1
        if most > decoder.layers:
            raise ShrinkError(
                f"config.json has num_hidden_layers = {decoder.layers} but model.safetensors has {most}: use a "
                "matching pair."
            )
