"""Tiny random models of the shapes that llama.cpp computes, perturbed so that no two tensors could be swapped unseen."""

from functools import cache
from random import Random

import tokenizers
import torch
from tokenizers import Regex, decoders, models, pre_tokenizers, processors, trainers

from fledge.arch import Arch, ByWavelength, Interpolated
from fledge.model import Transformer
from fledge.presets import shapes
from fledge.text.tokenizer import RESERVED, Tokenizer

WORDS = 1024
BLANKS = ("\n", "\r\n", "\t", "\r", "\n\n", "\u2028", "\u00a0", "\x85", "\x0b", "\x1c", "\ufeff", "\x00", "\u200b", "e\u0301")
SCRIPTS = ((0x20, 0x7F), (0xA0, 0x250), (0x300, 0x2000), (0x2000, 0x3100), (0xAC00, 0xD7A4), (0x1F000, 0x20000))
SHAPES: dict[str, Arch] = {
    "gpt2": shapes.gpt2(64, 2, heads=4, vocabulary=WORDS, context=128),
    "default": shapes.qwen3(64, 2, heads=4, kv_heads=2, head_size=32, vocabulary=WORDS, context=128),
    "llama": shapes.llama(64, 2, heads=4, kv_heads=2, vocabulary=WORDS + 64, context=128, stretch=ByWavelength(8.0, 32), eps=1e-3),
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


def tokenizer(pattern: str, size: int = WORDS, opening: str | None = None, controls: tuple[str, ...] = ()) -> Tokenizer:
    """One that was learned without a pattern, so that wherever it splits a text shows in the ids."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    alphabet, special = pre_tokenizers.ByteLevel.alphabet(), [*RESERVED[:5], *controls]
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False, max_token_length=8
    )
    random = Random(0)
    backend.train_from_iterator(["".join(odd_text(random) for _ in range(4)) for _ in range(400)], trainer)
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, backend.pre_tokenizer])
    if opening is not None:
        pair = [(opening, backend.token_to_id(opening))]
        backend.post_processor = processors.TemplateProcessing(single=[opening, "$A"], pair=[opening, "$A", "$B"], special_tokens=pair)
    return Tokenizer(backend, {} if opening is None else {"bos_token": opening})


@cache
def words(pattern: str) -> Tokenizer:
    return tokenizer(pattern)


def odd_text(random: Random) -> str:
    """Words, numbers, marks, line ends, blanks of many kinds, letters of all scripts, and what spells control tokens."""
    kinds = (
        lambda: chr(random.choice([random.randrange(*part) for part in SCRIPTS])),
        lambda: random.choice(["'s", "'ll", "'S", "'LL", "'T", "n't", " 're", "'", "\"'d"]),
        lambda: " " * random.randrange(1, 5),
        lambda: random.choice(BLANKS),
        lambda: str(random.randrange(10 ** random.randrange(1, 9))),
        lambda: random.choice(["the", "import", "Argparse", "HELP", "x", "def ", " ünï", "中文", "हिन्दी", "½"]),
        lambda: random.choice([*RESERVED[:6], "<|spare_1|>", "<|begin_of_text|>"]),
        lambda: random.choice("!?.,;:-_=()[]{}<>|\\/@#$%^&*~`\"'"),
    )
    return "".join(random.choice(kinds)() for _ in range(random.randrange(1, 25)))
