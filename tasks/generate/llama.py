"""A GGUF folder in llama.cpp, by llama-cpp-python (an extra): the same asking as in transformers.

A context takes memory for as many tokens as it may hold, so that it begins small and is made anew, twice as large, when
a longer text comes.
"""

import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.records import ShrinkError
from tasks.generate.runtime import MODEL, Opened, fitting

CHUNK = 256  # tokens that are read at once
SMALLEST = 512  # tokens of the first context


class Reader:
    """A loaded model and its context: how much of the present text it has read is `past`."""

    def __init__(self, path: Path, threads: int) -> None:
        import llama_cpp

        self.threads, self.past, self.size = threads, 0, SMALLEST
        self.llama = llama_cpp.Llama(
            str(path), n_ctx=SMALLEST, n_batch=CHUNK, n_ubatch=CHUNK, n_threads=threads, n_threads_batch=threads,
            verbose=False, logits_all=False,
        )  # fmt: skip
        self.own: Any = None  # a context larger than the first
        self.trained = int(llama_cpp.llama_model_n_ctx_train(self.llama.model))
        self.pieces = int(self.llama.n_vocab())

    def begin(self, tokens: int) -> None:
        """Forget what was read, and have room for so many tokens."""
        import llama_cpp

        if tokens > self.size:
            while self.size < tokens:
                self.size *= 2
            params = llama_cpp.llama_context_default_params()
            params.n_ctx, params.n_batch, params.n_ubatch = self.size, CHUNK, CHUNK
            params.n_threads = params.n_threads_batch = self.threads
            if self.own is not None:
                llama_cpp.llama_free(self.own)
            self.own = llama_cpp.llama_init_from_model(self.llama.model, params)
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)
        self.past = 0

    @property
    def context(self) -> Any:
        """llama.cpp's context in use."""
        return self.llama.ctx if self.own is None else self.own

    def read(self, ids: list[int], every: bool) -> NDArray[np.float32]:
        """Read on; logits [tokens, pieces] behind every one of at most CHUNK tokens, or [1, pieces] behind the last."""
        import llama_cpp

        batch = llama_cpp.llama_batch_init(len(ids), 0, 1)
        try:
            batch.n_tokens = len(ids)
            for place, token in enumerate(ids):
                batch.token[place], batch.pos[place] = token, self.past + place
                batch.n_seq_id[place], batch.seq_id[place][0] = 1, 0
                batch.logits[place] = every or place == len(ids) - 1
            if failed := llama_cpp.llama_decode(self.context, batch):
                raise RuntimeError(f"llama.cpp could not read {len(ids)} tokens behind {self.past} (its code {failed})")
        finally:
            llama_cpp.llama_batch_free(batch)
        self.past += len(ids)
        rows = len(ids) if every else 1
        found = ctypes.cast(llama_cpp.llama_get_logits(self.context), ctypes.POINTER(ctypes.c_float))
        return np.ctypeslib.as_array(found, shape=(rows, self.pieces)).copy()


def opened(directory: Path, threads: int) -> Opened:
    """A `gguf` folder in llama.cpp; the file is looked through before llama.cpp sees it."""
    from tasks.generate import gguf_check, gguf_tokenizer

    path = directory / MODEL
    if not path.is_file():
        raise ShrinkError("llama.cpp reads GGUF files alone: add {kind: export, method: gguf}, or take transformers.")
    gguf_check.check(path)
    reader = Reader(path, threads)
    llama = reader.llama

    def logits(ids: list[int]) -> NDArray[np.float32]:
        fitting(len(ids), reader.trained)
        reader.begin(len(ids))
        return np.concatenate([reader.read(ids[at : at + CHUNK], True) for at in range(0, len(ids), CHUNK)])

    def ids(text: str, special: bool) -> list[int]:
        asked = gguf_tokenizer.asked(text, str(llama.metadata.get("tokenizer.ggml.pre")))
        return list(llama.tokenize(asked.encode(), add_bos=False, special=special))

    return Opened(
        ids=lambda text: ids(text, False),
        text=lambda ids: llama.detokenize(ids).decode(errors="replace") if ids else "",
        chat=lambda messages: ids(rendered(llama, messages), True),
        logits=logits,
        stream=lambda ids, most: stream(reader, ids, most),
        context=reader.trained,
    )


def stream(reader: Reader, ids: list[int], most: int) -> Iterator[int]:
    """The likeliest continuation, up to a token that ends it."""
    import llama_cpp

    fitting(len(ids), reader.trained)
    most = min(most, reader.trained - len(ids))
    reader.begin(len(ids) + most)
    vocabulary = llama_cpp.llama_model_get_vocab(reader.llama.model)
    for at in range(0, len(ids) - CHUNK, CHUNK):
        reader.read(ids[at : at + CHUNK], False)
    last = ids[reader.past :]
    for _ in range(most):
        token = int(reader.read(last, False)[0].argmax())
        if llama_cpp.llama_vocab_is_eog(vocabulary, token):
            return
        yield token
        last = [token]


def rendered(llama: Any, messages: list[dict[str, str]]) -> str:
    """A conversation by the file's own template, up to where the answer begins."""
    from jinja2 import TemplateError
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    template = llama.metadata.get("tokenizer.chat_template")
    if not template:
        raise ShrinkError("the model has no chat template: it only goes on with a text (--raw).")
    ends = [llama.detokenize([token], special=True).decode() for token in (llama.token_eos(), llama.token_bos())]
    formatter = Jinja2ChatFormatter(template, eos_token=ends[0], bos_token=ends[1], add_generation_prompt=True)
    try:
        return str(formatter(messages=messages).prompt)
    except (TemplateError, ValueError) as error:
        raise ShrinkError(f"the model's chat template refuses this conversation: {str(error)[:200]}") from None
