"""litgpt's server with a folder of Llama's shape, which it is converted from first; run by the peers' own Python."""

import json
import shutil
import sys
import tempfile
from pathlib import Path

import torch
from litgpt.config import Config
from litgpt.deploy.serve import run_server
from litgpt.scripts.convert_hf_checkpoint import copy_weights_hf_llama
from litgpt.utils import save_config
from safetensors.torch import load_file

PATIENCE = 600  # seconds that a question may wait; its default refuses the last of sixteen

task = json.loads(sys.argv[1])
torch.set_num_threads(task["threads"])


def converted(folder: Path, out: Path) -> None:
    theirs = json.loads((folder / "config.json").read_text())
    config = Config(
        name="llama-shape", block_size=theirs["max_position_embeddings"], vocab_size=theirs["vocab_size"],
        padded_vocab_size=theirs["vocab_size"], n_layer=theirs["num_hidden_layers"], n_head=theirs["num_attention_heads"],
        n_query_groups=theirs["num_key_value_heads"], n_embd=theirs["hidden_size"], rotary_percentage=1.0, parallel_residual=False,
        bias=False, norm_class_name="RMSNorm", mlp_class_name="LLaMAMLP", intermediate_size=theirs["intermediate_size"],
    )  # fmt: skip
    weights: dict[str, torch.Tensor] = {}
    copy_weights_hf_llama(config, {}, weights, dict(load_file(folder / "model.safetensors")), dtype=torch.bfloat16)
    torch.save(weights, out / "lit_model.pth")
    save_config(config, out)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(folder / name, out / name)


if __name__ == "__main__":  # its workers import this file again
    with tempfile.TemporaryDirectory() as place:
        converted(Path(task["model"]), Path(place))
        run_server(
            Path(place), precision="bf16-true", accelerator="cpu", port=task["port"], stream=True, openai_spec=True, timeout=PATIENCE
        )
