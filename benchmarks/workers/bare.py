"""The bare tokenizer library: each process reads files of text and encodes them, and drops the tokens."""

import json
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import tiktoken
from tiktoken.load import data_gym_to_mergeable_bpe_ranks
from tiktoken_ext.openai_public import r50k_pat_str

task = json.loads(sys.argv[1])


def encoding() -> tiktoken.Encoding:
    ranks = data_gym_to_mergeable_bpe_ranks(f"{task['gpt2']}/vocab.bpe", f"{task['gpt2']}/encoder.json")
    return tiktoken.Encoding("gpt2", pat_str=r50k_pat_str, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 50256})


def encoded(part: int) -> int:
    bare = encoding()
    return sum(len(bare.encode_ordinary(path.read_text(encoding="utf-8"))) for path in files[part :: task["processes"]])


files = sorted(Path(task["text"]).glob("*.txt"))
if __name__ == "__main__":
    with ProcessPoolExecutor(task["processes"]) as pool:
        print(sum(pool.map(encoded, range(task["processes"]))))
