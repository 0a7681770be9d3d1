"""fledge or `transformers` writing from a model folder: for each line that it reads it prints how long reading and writing took."""

import json
import sys
import time

import torch

task = json.loads(sys.argv[1])
dtype = getattr(torch, task["dtype"])
torch.set_num_threads(task["threads"])


def fledge_writes():
    import fledge
    from fledge.generation import Engine, Request, Sampling

    model = fledge.load(task["model"], dtype=task["dtype"])
    engine = Engine(model.network, model.tokenizer, 1, task["read"] + task["new"])

    def write(tokens: list[int], new: int) -> int:
        return len(engine.run([Request(tokens, new, Sampling(temperature=0.0), stop_tokens=())])[0].tokens)

    return write


def transformers_write():
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    model = AutoModelForCausalLM.from_pretrained(task["model"], dtype=dtype).eval()

    def write(tokens: list[int], new: int) -> int:
        made = model.generate(
            torch.tensor([tokens]), attention_mask=torch.ones(1, len(tokens)), do_sample=False, max_new_tokens=new, min_new_tokens=new
        )
        return made.shape[1] - len(tokens)

    return write


write = fledge_writes() if task["by"] == "fledge" else transformers_write()
print("ready", flush=True)
for line in sys.stdin:
    tokens, took = json.loads(line), []
    for new in (1, task["new"]):
        began = time.perf_counter()
        assert write(tokens, new) == new
        took.append(time.perf_counter() - began)
    print(json.dumps({"read": took[0] / len(tokens), "write": (took[1] - took[0]) / (task["new"] - 1)}), flush=True)
