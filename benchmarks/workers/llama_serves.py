"""llama.cpp's server with a GGUF file: prints where it listens, and ends with its standard input."""

import importlib
import json
import os
import sys
from typing import Any

xllamacpp: Any = importlib.import_module("xllamacpp")  # compiled: it has no types
task = json.loads(sys.argv[1])
given = xllamacpp.CommonParams()
given.model.path = task["model"]
given.n_ctx, given.n_parallel, given.verbosity = task["slots"] * task["context"], task["slots"], -1
given.cpuparams.n_threads = given.cpuparams_batch.n_threads = task["threads"]
server = xllamacpp.Server(given)
print(server.listening_address, flush=True)
sys.stdin.read()
os._exit(0)  # its threads do not end by themselves
