"""Answers texts by the model in this folder, on this machine alone: python run.py TEXT… (or a text a line on stdin).

An answer is a line of JSON. A model of pairs reads two texts an answer: two arguments, or a tab within a line. Needed
are the packages of requirements.txt and nothing of who made this. No socket can be opened while it runs. Every file is
hashed before it is used; the signature over model and evidence is verified too where the package model-signing is
installed, with the public key of --key, else with the one that came along.
"""

import argparse
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

HERE = Path(__file__).resolve().parent
VERSION = HERE / "version"
MODEL = VERSION / "model"
LISTED = "files.json"
OWN = {LISTED, "run.py"}  # not listed: the list itself, and this, which would have to judge itself
CONTEXT = 2048  # tokens of a prompt and its answer, where the model reads as many


def main() -> int:
    """Verify, open, answer; returns the exit status."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n\n")[0])
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="texts to answer; without any: one a line on stdin")
    parser.add_argument("--key", type=Path, help="public key (PEM) that must have signed; default: signing.pub here")
    parser.add_argument("--max-tokens", type=int, default=256, help="of an answer, where the model writes")
    given = parser.parse_args()
    sys.addaudithook(no_socket)
    os.environ |= {"ORT_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}  # noqa: TID251
    sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")  # type: ignore[union-attr]
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    whole()
    signed(given.key)
    config = json.loads((MODEL / "config.json").read_text(encoding="utf-8"))
    texts = readable(asked(given.texts, bool(config.get("pairs"))))
    found = written(texts, given.max_tokens) if config.get("task") == "generate" else answered(texts, config)
    try:
        for answer in found:
            print(json.dumps(answer, ensure_ascii=False), flush=True)
    except BrokenPipeError:  # who reads has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def no_socket(event: str, _: tuple[Any, ...]) -> None:
    """Refuse whatever Python would do with a socket."""
    if event.startswith("socket."):
        raise PermissionError(f"{event}: this program opens no socket")


def refuse(sentence: str) -> NoReturn:
    """End with one sentence."""
    print(f"run.py: {sentence}", file=sys.stderr)
    sys.exit(2)


def whole() -> None:
    """Hold every file here against the list of names, sizes and SHA-256."""
    if not (HERE / LISTED).is_file():
        refuse(f"'{LISTED}' is missing; copy the folder again.")
    listed: dict[str, dict[str, Any]] = json.loads((HERE / LISTED).read_text(encoding="utf-8"))
    there = {path.relative_to(HERE).as_posix(): path for path in HERE.rglob("*") if path.is_file()}
    there = {name: path for name, path in there.items() if name not in OWN and "__pycache__" not in path.parts}
    for name in sorted(listed.keys() | there.keys()):
        if name not in there:
            refuse(f"'{name}' is missing; copy the folder again.")
        if name not in listed:
            refuse(f"'{name}' is not of this folder; remove it, or copy the folder again.")
        with there[name].open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != listed[name]["sha256"]:
                refuse(f"'{name}' was changed: its SHA-256 is not the listed one; copy the folder again.")


def signed(key: Path | None) -> None:
    """Verify the signature where the library is there; without it say so."""
    try:
        from model_signing import hashing, verifying
    except ImportError:
        if key is not None:
            refuse("--key asks for the signature, but the package model-signing is not installed; install it.")
        print("signature not verified: the package model-signing is not installed; hashes were", file=sys.stderr)
        return
    used = key or HERE / "signing.pub"
    if not used.is_file():
        refuse(f"--key is '{used}' but there is no such file; name a public key (PEM).")
    signature = VERSION / "signature" / "model.sig"
    every = hashing.Config().set_ignored_paths(paths=[signature.parent], ignore_git_paths=False)
    try:
        config = verifying.Config().use_elliptic_key_verifier(public_key=used).set_hashing_config(every)
        config.verify(VERSION, signature)
    except Exception as error:  # the library raises many kinds
        refuse(f"the signature does not hold with the key '{used}' ({type(error).__name__}); get the folder again.")


def asked(arguments: list[str], pairs: bool) -> Iterator[Any]:
    """Texts, or pairs of them, of the command line or of standard input."""
    if not pairs:
        yield from arguments or (line.rstrip("\r\n") for line in sys.stdin if line.strip())
        return
    if len(arguments) % 2:
        refuse("the model answers pairs: give two texts for each.")
    yield from zip(arguments[::2], arguments[1::2], strict=True)
    for number, line in enumerate(() if arguments else sys.stdin, start=1):
        parts = line.rstrip("\r\n").split("\t")
        if len(parts) != 2:
            refuse(f"line {number} has {len(parts)} text(s) but the model answers pairs: put a tab between two.")
        yield tuple(parts)


def readable(texts: Iterable[Any]) -> Iterator[Any]:
    """The texts, as long as they are UTF-8."""
    for number, text in enumerate(texts, start=1):
        if any("\ud800" <= one <= "\udfff" for part in ([text] if isinstance(text, str) else text) for one in part):
            refuse(f"text {number} is no UTF-8; convert it.")
        yield text


def answered(texts: Iterable[Any], config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Label and scores, or the embedding, of each text as it comes."""
    import numpy as np
    import onnxruntime
    from tokenizers import Tokenizer

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(MODEL / "model.onnx"), options, providers=["CPUExecutionProvider"])
    tokenizer: Any = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(int(config["max_length"]))
    output = session.get_outputs()[0].name
    for text in texts:
        parts: tuple[str, ...] = (text,) if isinstance(text, str) else text
        ids = tokenizer.encode(*parts).ids or [0]
        tokens = np.zeros((1, max(2, len(ids))), dtype=np.int64)
        mask = np.zeros_like(tokens)
        tokens[0, : len(ids)], mask[0, : len(ids)] = ids, 1
        row = session.run([output], {"input_ids": tokens, "attention_mask": mask})[0][0].astype(np.float64)
        named = {"text": parts[0]} if len(parts) == 1 else {"text": parts[0], "pair": parts[1]}
        yield named | answer(row, config)


def answer(row: Any, config: dict[str, Any]) -> dict[str, Any]:
    """What a row of logits, or a vector, says."""
    import numpy as np

    labels = config["labels"]
    if config.get("task") == "embed":
        return {"embedding": row.tolist()}
    if config.get("multi_label"):
        scores = dict(zip(labels, (1 / (1 + np.exp(-np.clip(row, -500, 500)))).tolist(), strict=True))
        return {"labels": sorted((one for one in labels if scores[one] > 0.5), key=lambda one: -scores[one]),
                "scores": scores}  # fmt: skip
    powers = np.exp(row - row.max())
    scores = dict(zip(labels, (powers / powers.sum()).tolist(), strict=True))
    best = labels[int(row.argmax())]
    return {"label": best, "score": scores[best], "scores": scores}


def written(texts: Iterable[str], most: int) -> Iterator[dict[str, Any]]:
    """The likeliest answer to each prompt, by llama.cpp or, without it, transformers."""
    try:
        import llama_cpp
        from llama_cpp.llama_chat_format import Jinja2ChatFormatter
    except ImportError:
        yield from by_transformers(texts, most)
        return
    llama = llama_cpp.Llama(str(MODEL / "model.gguf"), n_ctx=CONTEXT, n_threads=1, n_threads_batch=1, verbose=False)
    ends = [llama.detokenize([token], special=True).decode() for token in (llama.token_eos(), llama.token_bos())]
    template = llama.metadata.get("tokenizer.chat_template")
    formatter = Jinja2ChatFormatter(template, eos_token=ends[0], bos_token=ends[1]) if template else None
    vocabulary = llama_cpp.llama_model_get_vocab(llama.model)
    room = min(CONTEXT, int(llama_cpp.llama_model_n_ctx_train(llama.model)))
    for text in texts:
        prompt = formatter(messages=[{"role": "user", "content": text}]).prompt if formatter else text
        ids = llama.tokenize(prompt.encode(), add_bos=False, special=formatter is not None)
        if len(ids) >= room:
            refuse(f"the prompt has {len(ids)} tokens but {room} are read, the answer included; shorten it.")
        given: list[int] = []
        for token in llama.generate(ids, temp=0.0):
            if llama_cpp.llama_vocab_is_eog(vocabulary, token) or len(given) == min(most, room - len(ids)):
                break
            given.append(token)
        yield {"text": llama.detokenize(given).decode(errors="replace") if given else "", "ids": given}


def by_transformers(texts: Iterable[str], most: int) -> Iterator[dict[str, Any]]:
    """The same in transformers, which unpacks the file to float32."""
    try:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError:
        refuse("neither llama-cpp-python nor transformers is installed; install one (requirements.txt).")
    tokenizer = AutoTokenizer.from_pretrained(MODEL, gguf_file="model.gguf")
    model = AutoModelForCausalLM.from_pretrained(MODEL, gguf_file="model.gguf", dtype=torch.float32)
    for text in texts:
        if tokenizer.chat_template:
            messages = [{"role": "user", "content": text}]
            text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        found = model.generate(ids, max_new_tokens=most, do_sample=False)[0, ids.shape[1] :].tolist()
        yield {"text": tokenizer.decode(found, skip_special_tokens=True), "ids": found}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as home:
        os.environ.setdefault("HF_HOME", home)  # noqa: TID251  # nothing of this user's is read or left
        sys.exit(main())
