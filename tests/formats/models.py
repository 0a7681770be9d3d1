"""Tiny random models of the shapes that llama.cpp computes, perturbed so that no two tensors could be swapped unseen."""

import argparse
from functools import cache
from pathlib import Path

import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, trainers

from fledge.arch import Arch, ByWavelength, Interpolated
from fledge.model import Transformer
from fledge.presets import shapes
from fledge.text.tokenizer import RESERVED, Tokenizer

WORDS = 640
SHAPES: dict[str, Arch] = {
    "gpt2": shapes.gpt2(64, 2, heads=4, vocabulary=WORDS, context=128),
    "default": shapes.qwen3(64, 2, heads=4, kv_heads=2, head_size=32, vocabulary=WORDS, context=128),
    "llama": shapes.llama(
        64, 2, heads=4, kv_heads=2, vocabulary=WORDS + 64, context=128, stretch=ByWavelength(8.0, 32), eps=1e-3
    ),
}
RELATIVES: dict[str, Arch] = {
    "gpt2 untied": shapes.gpt2(64, 2, heads=4, mlp=96, vocabulary=WORDS, context=128, tied=False),
    "llama linear": shapes.llama(64, 2, heads=4, vocabulary=WORDS, context=128, stretch=Interpolated(4.0), qkv_bias=True),
    "mistral": shapes.llama(64, 2, heads=4, kv_heads=1, vocabulary=WORDS, context=128, window=128),
    "mixtral": shapes.llama(64, 2, heads=4, kv_heads=2, mlp=96, vocabulary=WORDS, context=128, experts=4, chosen=2),
    "qwen2": shapes.llama(64, 2, heads=4, kv_heads=2, vocabulary=WORDS, context=128, qkv_bias=True),
    "qwen3 with experts": shapes.qwen3(64, 2, heads=4, vocabulary=WORDS, context=128, mlp=64, experts=4, chosen=2),
    "olmo2": shapes.olmo2(64, 2, heads=4, kv_heads=2, vocabulary=WORDS, context=128),
    "smollm3": shapes.llama(64, 4, heads=4, kv_heads=2, vocabulary=WORDS, context=128, unturned=4, tied=True),
}


def perturbed(arch: Arch, seed: int = 0) -> Transformer:
    """Random weights of a size that makes each tensor matter, gains about 1 and biases about 0."""
    model = Transformer(arch).eval()
    random = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=random)
        gain = "norm" in name and name.endswith("weight")
        parameter.data = 1 + 0.3 * noise if gain else noise * (0.3 if parameter.ndim == 1 else parameter.shape[-1] ** -0.5)
    return model


def text() -> str:
    """What every machine with Python has."""
    return Path(argparse.__file__).read_text(encoding="utf-8")


@cache
def llama3_words() -> Tokenizer:
    """Split by Llama 3's pattern, as our own are."""
    return Tokenizer.train([text()], WORDS)


@cache
def gpt2_words() -> Tokenizer:
    """Split by GPT-2's pattern, with its one control token and ours for chats."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=WORDS, special_tokens=list(RESERVED[:5]), initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator([text()], trainer)
    return Tokenizer(backend)
