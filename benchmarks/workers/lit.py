"""litgpt's pretraining of GPT-2's shape (its own has rotary positions) from random weights; run by the peers' own Python."""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from litgpt.args import EvalArgs, TrainArgs
from litgpt.config import Config
from litgpt.data import DataModule
from litgpt.pretrain import setup

task = json.loads(sys.argv[1])


rows, context = task["rows"], task["context"]


class Windows(DataModule):
    def connect(self, tokenizer=None, batch_size: int = 1, max_seq_length: int | None = None) -> None:
        tokens = torch.from_numpy(np.fromfile(task["tokens"], np.uint16).astype(np.int64))
        self.rows = [tokens[i : i + context + 1] for i in range(0, len(tokens) - context - 1, context)]

    def train_dataloader(self) -> torch.utils.data.DataLoader:
        return torch.utils.data.DataLoader(self.rows, batch_size=rows, shuffle=True, drop_last=True)  # pyrefly: ignore[bad-argument-type]

    val_dataloader = train_dataloader


config = Config(
    name="gpt2-shape", block_size=context, vocab_size=task["vocabulary"], padded_vocab_size=task["vocabulary"], n_layer=task["depth"],
    n_head=task["heads"], n_embd=task["width"],
    rotary_percentage=1.0, parallel_residual=False, bias=True, norm_class_name="LayerNorm", mlp_class_name="GptNeoxMLP",
    intermediate_size=4 * task["width"],
)  # fmt: skip
with tempfile.TemporaryDirectory() as out:
    train = TrainArgs(
        save_interval=None, log_interval=1, global_batch_size=rows, micro_batch_size=rows, max_tokens=task["steps"] * rows * context,
        max_norm=1.0, min_lr=4e-5, lr_warmup_steps=10, tie_embeddings=True,
    )  # fmt: skip
    evaluation = EvalArgs(interval=10**6, max_iters=1)
    setup("gpt2-shape", config, Path(out), "bf16-mixed", data=Windows(), devices=1, logger_name="csv", eval=evaluation, train=train)
