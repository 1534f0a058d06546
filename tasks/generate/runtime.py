"""Opens a language model's folder to read and write with it: in transformers (float32), llama.cpp or ONNX Runtime.

All give the same ids of a text, and logits of the same weights; llama.cpp rounds what flows between its products to 8
bits where weights are blocks of integers, so that its logits are near and not the same.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from registry.records import ShrinkError
from tasks import layout

Runtime = Literal["transformers", "llama_cpp"]  # that read what is served
AnyRuntime = Literal["transformers", "llama_cpp", "onnxruntime"]
MODEL = "model.gguf"
STOPS = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "</s>", "<end_of_turn>")  # llama.cpp's, too


class Opened(NamedTuple):
    """A model that can be asked; ids are without tokens that a tokenizer would add by itself."""

    ids: Callable[[str], list[int]]
    text: Callable[[list[int]], str]  # special tokens left out
    chat: Callable[[list[dict[str, str]]], list[int]]  # messages of "role" and "content", up to where the answer begins
    logits: Callable[[list[int]], NDArray[np.float32]]  # [tokens, pieces], each position's prediction of the next
    stream: Callable[[list[int], int], Iterator[int]]  # greedy continuation, stops at the end token
    context: int


def open_model(directory: Path, runtime: AnyRuntime, threads: int = 1) -> Opened:
    """Open an `lm`, a `gguf` or (in ONNX Runtime) a `matmul_nbits` folder.

    Raises ShrinkError for one that the runtime does not read. Asking for more tokens than the context has raises
    ShrinkError, too, before anything is computed.
    """
    match runtime:
        case "transformers":
            return by_transformers(directory, threads)
        case "llama_cpp":
            from tasks.generate import llama

            return llama.opened(directory, threads)
        case "onnxruntime":
            from tasks.generate import onnx_reader

            return onnx_reader.opened(directory, threads)


def by_transformers(directory: Path, threads: int) -> Opened:
    """A folder in transformers and torch, weights in float32; a GGUF file's are the numbers that its blocks mean."""
    import torch

    torch.set_num_threads(threads)
    model, tokenizer = loaded(directory)
    context, ends = (
        int(model.config.max_position_embeddings),
        ends_of(tokenizer.get_added_vocab(), model.config.eos_token_id),
    )

    def logits(ids: list[int]) -> NDArray[np.float32]:
        fitting(len(ids), context)
        with torch.inference_mode():
            found: NDArray[np.float32] = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].numpy()
        return found

    def stream(ids: list[int], most: int) -> Iterator[int]:
        fitting(len(ids), context)
        given, past = ids, None
        for _ in range(min(most, context - len(ids))):
            with torch.inference_mode():
                out = model(input_ids=torch.tensor([given]), past_key_values=past, use_cache=True, logits_to_keep=1)
            token, past = int(out.logits[0, -1].argmax()), out.past_key_values
            if token in ends:
                return
            yield token
            given = [token]

    return Opened(
        ids=lambda text: list(tokenizer(text, add_special_tokens=False)["input_ids"]),
        text=lambda ids: str(tokenizer.decode(ids, skip_special_tokens=True)),
        chat=lambda messages: chat_ids(tokenizer, messages),
        logits=logits,
        stream=stream,
        context=context,
    )


def loaded(directory: Path) -> tuple[Any, Any]:
    """Model and tokenizer of a folder, for transformers."""
    from tasks.export import compressed_tensors
    from tasks.generate import gguf_read, lm, w8a8_model

    if (directory / MODEL).is_file():
        return gguf_read.model_and_tokenizer(directory / MODEL)
    if "quantization_config" in layout.read_json(directory / "config.json"):
        return compressed_tensors.load(directory), lm.load_tokenizer(directory)
    if (directory / w8a8_model.FACTS).is_file():
        return w8a8_model.load(directory), lm.load_tokenizer(directory)
    return lm.load(directory), lm.load_tokenizer(directory)


def fitting(count: int, context: int) -> None:
    """Refuse no token at all, and more of them than the model reads."""
    if not count:
        raise ShrinkError("the prompt has no token: give some words.")
    if count > context:
        raise ShrinkError(f"the prompt has {count} tokens but the model reads {context}: shorten it.")


def ends_of(known: dict[str, int], said: int | list[int] | None) -> set[int]:
    """The tokens that end an answer: those that the model names and the usual ones of what its tokenizer added."""
    named = [said] if isinstance(said, int) else list(said or [])
    return {*named, *(known[one] for one in STOPS if one in known)}


def chat_ids(tokenizer: Any, messages: list[dict[str, str]]) -> list[int]:
    """The ids of a conversation; ShrinkError without a template, or where the template refuses it."""
    from jinja2 import TemplateError

    if not tokenizer.chat_template:
        raise ShrinkError("the model has no chat template: it only goes on with a text (--raw).")
    try:
        said = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except TemplateError as error:
        raise ShrinkError(f"the model's chat template refuses this conversation: {str(error)[:200]}") from None
    return list(tokenizer(said, add_special_tokens=False)["input_ids"])
