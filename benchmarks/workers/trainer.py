"""`transformers` with its Trainer: GPT-2's shape from random weights, bf16, on a CPU; run by the peers' own Python."""

import json
import sys
import tempfile
import time

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

task = json.loads(sys.argv[1])


class Windows(torch.utils.data.Dataset):
    def __init__(self) -> None:
        self.tokens = np.fromfile(task["tokens"], np.uint16).astype(np.int64)

    def __len__(self) -> int:
        return len(self.tokens) // task["context"]

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        window = self.tokens[index * task["context"] : (index + 1) * task["context"]]
        return {"input_ids": window, "labels": window}


class Clock(TrainerCallback):
    began = 0.0

    def on_step_begin(self, args, state, control, **more) -> None:
        Clock.began = time.perf_counter()

    def on_step_end(self, args, state, control, **more) -> None:
        print(f"step {time.perf_counter() - Clock.began:.6f} s", flush=True)


def adapted(model: GPT2LMHeadModel) -> torch.nn.Module:
    """The model, or it with an adapter of peft's beside all linear maps of its blocks."""
    if not task["rank"]:
        return model
    from peft import LoraConfig, get_peft_model

    maps = ["c_attn", "c_proj", "c_fc"]
    return get_peft_model(model, LoraConfig(r=task["rank"], lora_alpha=2 * task["rank"], target_modules=maps, fan_in_fan_out=True))


torch.manual_seed(0)
config = GPT2Config(
    n_embd=task["width"], n_layer=task["depth"], n_head=task["heads"], n_positions=task["context"], vocab_size=task["vocabulary"],
    resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, use_cache=False, bos_token_id=0, eos_token_id=0,
)  # fmt: skip
with tempfile.TemporaryDirectory() as out:
    arguments = TrainingArguments(
        out, max_steps=task["steps"], per_device_train_batch_size=task["rows"], bf16=True, use_cpu=True, torch_compile=task["compiled"],
        save_strategy="no", report_to=[], logging_strategy="no", disable_tqdm=True, learning_rate=6e-4,
    )  # fmt: skip
    Trainer(adapted(GPT2LMHeadModel(config)), arguments, train_dataset=Windows(), callbacks=[Clock()]).train()
