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

    def write(tokens: list[int]) -> tuple[float, float]:
        began = time.perf_counter()
        row = engine.submit(Request(tokens, task["new"], Sampling(temperature=0.0), stop_tokens=()))
        while not row.tokens:
            engine.step()
        first = time.perf_counter()
        while row.reason is None:
            engine.step()
        assert len(row.tokens) == task["new"]
        return first - began, time.perf_counter() - first

    return write


def transformers_write():
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    model = AutoModelForCausalLM.from_pretrained(task["model"], dtype=dtype).eval()

    def took(tokens: list[int], new: int) -> float:
        given, began = torch.tensor([tokens]), time.perf_counter()
        made = model.generate(given, attention_mask=torch.ones_like(given), do_sample=False, max_new_tokens=new, min_new_tokens=new)
        assert made.shape[1] == len(tokens) + new
        return time.perf_counter() - began

    def write(tokens: list[int]) -> tuple[float, float]:
        first = took(tokens, 1)
        return first, took(tokens, task["new"]) - first

    return write


write = fledge_writes() if task["by"] == "fledge" else transformers_write()
print("ready", flush=True)
for line in sys.stdin:
    first, rest = write(json.loads(line))
    print(json.dumps({"read": first / task["read"], "write": rest / (task["new"] - 1)}), flush=True)
