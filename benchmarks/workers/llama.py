"""llama.cpp writing from a GGUF file, as its server does by default: for each line that it reads it prints how long both took."""

import json
import os
import sys
import urllib.request

import xllamacpp

task = json.loads(sys.argv[1])
given = xllamacpp.CommonParams()
given.model.path = task["model"]
given.n_ctx, given.n_parallel, given.cache_ram_mib, given.verbosity = 2 * (task["read"] + task["new"]), 1, 0, -1
given.cpuparams.n_threads = given.cpuparams_batch.n_threads = task["threads"]
server = xllamacpp.Server(given)
print("ready", flush=True)
for line in sys.stdin:
    asked = {"prompt": json.loads(line), "n_predict": task["new"], "temperature": 0.0, "ignore_eos": True, "cache_prompt": False}
    request = urllib.request.Request(
        server.listening_address + "/completion", json.dumps(asked).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:
        took = json.load(answer)["timings"]
    assert (took["prompt_n"], took["predicted_n"]) == (task["read"], task["new"]), took
    print(json.dumps({"read": took["prompt_per_token_ms"] / 1000, "write": took["predicted_per_token_ms"] / 1000}), flush=True)
os._exit(0)  # its threads do not end by themselves
