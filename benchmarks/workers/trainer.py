"""`transformers` with its Trainer: GPT-2's shape or Qwen 3's from random weights, bf16; run by the peers' own Python."""

import json
import sys
import tempfile
import time

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel, Qwen3Config, Qwen3ForCausalLM, Trainer, TrainerCallback, TrainingArguments

task = json.loads(sys.argv[1])


class Windows(torch.utils.data.Dataset):
    def __init__(self) -> None:
        tokens = np.fromfile(task["tokens"], np.uint16).astype(np.int64)
        self.rows = tokens[: len(tokens) // task["context"] * task["context"]].reshape(-1, task["context"])

    def __len__(self) -> int:
        return task["steps"] * task["rows"]  # so that no step is a short one at the end of the text

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        window = self.rows[index % len(self.rows)]
        return {"input_ids": window, "labels": window}


class Clock(TrainerCallback):
    began = 0.0

    def on_step_begin(self, args, state, control, **more) -> None:
        Clock.began = time.perf_counter()

    def on_step_end(self, args, state, control, **more) -> None:
        if task["device"] != "cpu":
            torch.cuda.synchronize()
        print(f"step {time.perf_counter() - Clock.began:.6f} s", flush=True)


def adapted(model: torch.nn.Module) -> torch.nn.Module:
    """The model, or it with an adapter of peft's beside all linear maps of its blocks."""
    if not task["rank"]:
        return model
    from peft import LoraConfig, get_peft_model

    maps = ["c_attn", "c_proj", "c_fc"]
    return get_peft_model(model, LoraConfig(r=task["rank"], lora_alpha=2 * task["rank"], target_modules=maps, fan_in_fan_out=True))


def of_shape() -> torch.nn.Module:
    if task["family"] == "gpt2":
        return GPT2LMHeadModel(GPT2Config(
            n_embd=task["width"], n_layer=task["depth"], n_head=task["heads"], n_positions=task["context"], vocab_size=task["vocabulary"],
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, use_cache=False, bos_token_id=0, eos_token_id=0,
        ))  # fmt: skip
    return Qwen3ForCausalLM(Qwen3Config(
        hidden_size=task["width"], num_hidden_layers=task["depth"], num_attention_heads=task["heads"], vocab_size=task["vocabulary"],
        num_key_value_heads=task["heads"] // 2, head_dim=task["width"] // task["heads"], intermediate_size=3 * task["width"],
        max_position_embeddings=task["context"], tie_word_embeddings=True, use_cache=False, bos_token_id=0, eos_token_id=0,
    ))  # fmt: skip


torch.manual_seed(0)
with tempfile.TemporaryDirectory() as out:
    arguments = TrainingArguments(
        out, max_steps=task["steps"], per_device_train_batch_size=task["rows"] // task["parts"], gradient_accumulation_steps=task["parts"],
        bf16=True, use_cpu=task["device"] == "cpu", torch_compile=task["compiled"], learning_rate=6e-4, save_strategy="no", report_to=[],
        logging_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    Trainer(adapted(of_shape()), arguments, train_dataset=Windows(), callbacks=[Clock()]).train()
if task["device"] != "cpu":
    print(f"held {torch.cuda.max_memory_allocated()} bytes")
