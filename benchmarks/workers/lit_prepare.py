"""litgpt's own preparation of a folder of .txt files; run by the peers' own Python, with litdata beside it."""

import json
import os
import sys
from pathlib import Path

task = json.loads(sys.argv[1])
os.cpu_count = lambda: task["processes"] + 1  # it leaves one out
os.environ["DATA_OPTIMIZER_CACHE_FOLDER"] = f"{task['out']}/cache"

if __name__ == "__main__":
    import tokenizers
    from litgpt.data import TextFiles
    from litgpt.tokenizer import Tokenizer

    folder = Path(task["out"]) / "tokenizer"
    folder.mkdir()
    made = tokenizers.ByteLevelBPETokenizer(f"{task['gpt2']}/encoder.json", f"{task['gpt2']}/vocab.bpe")
    made.save(str(folder / "tokenizer.json"))
    told = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "tokenizer_class": "GPT2Tokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    data = TextFiles(Path(task["text"]))
    data.out_path_train, data.out_path_val = Path(task["out"]) / "train", Path(task["out"]) / "val"
    data.connect(Tokenizer(folder), 1, 1024)
    data.prepare_data()
