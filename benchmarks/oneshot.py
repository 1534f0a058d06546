"""llm-compressor's `oneshot` GPTQ (W4A16, groups of 64) of one model, for benchmarks/writers.py; needs llm-compressor.

Run by an interpreter that has it: PYTHON benchmarks/oneshot.py TOLD.json (model, out, threads, calibration, windows).
Prints what it took and what the model then says, as JSON. Nothing of this project is imported here.
"""

import json
import math
import sys
import time
from pathlib import Path
from typing import Any


def held(what: str) -> float:
    """MB that this process holds (VmRSS) or held at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) * 1024 / 1e6


def compressed(told: dict[str, Any]) -> Any:
    """The model with its linear layers on four bits, the head and the embedding left as they are."""
    import torch
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.quantization import GPTQModifier
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(told["model"], dtype=torch.float32)
    scheme = {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 64},
        }
    }
    rows = Dataset.from_dict(
        {"input_ids": told["calibration"], "attention_mask": [[1] * 256] * len(told["calibration"])}
    )
    oneshot(
        model=model,
        dataset=rows,
        recipe=GPTQModifier(config_groups=scheme, ignore=["lm_head"]),
        max_seq_length=len(told["calibration"][0]),
        num_calibration_samples=len(told["calibration"]),
    )
    return model


def main() -> None:
    """Compress, save, and say what was measured."""
    import torch
    import transformers.models.llama.modeling_llama  # noqa: F401, before the memory is read
    from llmcompressor import oneshot  # noqa: F401, the same
    from torch.nn import functional

    told = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(told["threads"])
    before, start = held("VmRSS"), time.process_time()
    model = compressed(told)
    spent, most = time.process_time() - start, held("VmHWM") - before
    nats, tokens = 0.0, 0
    with torch.no_grad():
        for window in told["windows"]:
            ids = torch.tensor([window])
            said = functional.log_softmax(model(input_ids=ids, use_cache=False).logits[0, :-1].float(), -1)
            nats -= float(said.gather(1, ids[0, 1:, None]).double().sum())
            tokens += len(window) - 1
    model.save_pretrained(told["out"], save_compressed=True)
    size = sum(file.stat().st_size for file in Path(told["out"]).glob("*.safetensors"))
    linears = sum(
        one.weight.numel() for name, one in model.named_modules() if "proj" in name and hasattr(one, "weight")
    )
    tables = model.get_input_embeddings().weight.numel()
    bits = (linears * (4 + 16 / 64) + tables * 16) / (linears + tables)
    found = {"seconds": spent, "memory_mb": most, "bytes": size, "bits": bits, "perplexity": math.exp(nats / tokens)}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
