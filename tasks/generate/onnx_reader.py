"""A decoder's ONNX graph in ONNX Runtime on the CPU: the same asking as in transformers, without torch but for a chat.

Keys and values lie in buffers that the graph writes on in place. They begin small and are made anew, twice as large,
when a longer text comes.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks import layout, runtime
from tasks.generate.runtime import Opened, chat_ids, ends_of, fitting

SMALLEST = 512  # tokens of the first buffers


class Reader:
    """An open graph and its buffers: how much of the present text they hold is `past`."""

    def __init__(self, directory: Path, threads: int, context: int) -> None:
        self.session = runtime.session(directory, threads)
        self.context, self.past, self.size = context, 0, 0
        self.cache: dict[str, tuple[str, list[int]]] = {
            one.name: (one.name.replace("past_key_values", "present"), [1, one.shape[1], 0, one.shape[3]])
            for one in self.session.get_inputs()
            if one.name.startswith("past_key_values")
        }
        self.buffers: dict[str, Any] = {}

    def begin(self, tokens: int) -> None:
        """Forget what was read, and have room for so many tokens."""
        from onnxruntime import OrtValue

        self.past = 0
        if tokens <= self.size:
            return
        self.size = max(self.size, min(SMALLEST, self.context))
        while self.size < tokens:
            self.size = min(2 * self.size, self.context)
        self.buffers = {}  # the old ones go first
        for name, (_, (batch, heads, _, width)) in self.cache.items():
            shape = (batch, heads, self.size, width)
            self.buffers[name] = OrtValue.ortvalue_from_numpy(np.zeros(shape, dtype=np.float32))

    def read(self, ids: list[int], keep: int) -> NDArray[np.float32]:
        """Read on; logits [keep, pieces] of the last tokens, or of all of them where it is 0."""
        binding = self.session.io_binding()
        binding.bind_cpu_input("input_ids", np.array([ids], dtype=np.int64))
        binding.bind_cpu_input("attention_mask", np.ones((1, self.past + len(ids)), dtype=np.int64))
        binding.bind_cpu_input("num_logits_to_keep", np.array(keep, dtype=np.int64))
        for name, (present, _) in self.cache.items():
            binding.bind_ortvalue_input(name, self.buffers[name])
            binding.bind_ortvalue_output(present, self.buffers[name])
        binding.bind_output("logits", "cpu")
        self.session.run_with_iobinding(binding)
        self.past += len(ids)
        found: NDArray[np.float32] = binding.get_outputs()[-1].numpy()[0]
        return found


def opened(directory: Path, threads: int) -> Opened:
    """A `matmul_nbits` folder in ONNX Runtime."""
    from tokenizers import Tokenizer

    config = layout.read_json(directory / "config.json")
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.no_padding()  # whole texts alone, as every other reader takes them
    tokenizer.no_truncation()
    known = {one.content: number for number, one in tokenizer.get_added_tokens_decoder().items()}
    context, ends = int(config["max_position_embeddings"]), ends_of(known, config.get("eos_token_id"))
    reader = Reader(directory, threads, context)

    def logits(ids: list[int]) -> NDArray[np.float32]:
        fitting(len(ids), context)
        reader.begin(len(ids))
        return reader.read(ids, 0)

    def stream(ids: list[int], most: int) -> Iterator[int]:
        fitting(len(ids), context)
        most = min(most, context - len(ids))
        reader.begin(len(ids) + most)
        given = ids
        for _ in range(most):
            token = int(reader.read(given, 1)[-1].argmax())
            if token in ends:
                return
            yield token
            given = [token]

    def chat(messages: list[dict[str, str]]) -> list[int]:
        from transformers import AutoTokenizer  # which renders the template

        return chat_ids(AutoTokenizer.from_pretrained(directory), messages)

    return Opened(
        ids=lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids),
        text=lambda ids: str(tokenizer.decode(ids, skip_special_tokens=True)),
        chat=chat,
        logits=logits,
        stream=stream,
        context=context,
    )
