"""Tiny models of random weights, as folders: what they write means nothing, and comes quickly."""

from dataclasses import replace
from pathlib import Path

import torch

from fledge.adapt.folder import Base, save_adapter
from fledge.adapt.low import attach, changes_of, maps_of, trained
from fledge.adapt.settings import Lora
from fledge.arch import Arch
from fledge.model import Transformer, initialise
from fledge.presets import bert, qwen3
from fledge.text import Tokenizer
from fledge.weights import open_model, save_model
from fledge.weights.families import classifier

TOKENIZER = Tokenizer.bytes()
CONTEXT = 1024
LABELS = ("ham", "spam")
DECODER = qwen3(32, 1, 2, 1, 16, vocabulary=TOKENIZER.size, context=CONTEXT)
ENCODER = bert(32, 1, 2, vocabulary=TOKENIZER.size, context=128)
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['content'] == 'bomb' %}{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}{% endif %}"
    "{{ m['content'] }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def made(folder: Path) -> dict[str, Path]:
    """A base, two assistants (of which one has a template of its own), a classifier, an encoder and an adapter, by their names."""
    places = {name: folder / name for name in ("base", "assistant", "templated", "classifier", "encoder", "tuned")}
    save_model(places["base"], perturbed(DECODER, 0), TOKENIZER, None, {}, {"do_sample": True, "temperature": 0.9}, "# A base\n")
    trained_to = {"trained_to": {"task": "say anything", "example": "Hello"}}
    save_model(places["assistant"], perturbed(DECODER, 1), TOKENIZER, "chatml", trained_to, None, "# An assistant\n")
    save_model(places["templated"], perturbed(DECODER, 2), TOKENIZER, TEMPLATE, {}, None, "# Another\n")
    labels = replace(DECODER, head=classifier(DECODER, LABELS))
    save_model(places["classifier"], perturbed(labels, 3), TOKENIZER, None, {"data": {"text_column": "text"}}, None, "# A classifier\n")
    save_model(places["encoder"], perturbed(ENCODER, 4), TOKENIZER, None, {}, None, "# An encoder\n")
    adapted(places["tuned"], places["base"])
    return places


def perturbed(arch: Arch, seed: int) -> Transformer:
    """Weights far from their start, so that texts matter."""
    model = initialise(Transformer(arch), seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model


def adapted(folder: Path, base: Path) -> None:
    network, tokenizer, facts = open_model(base)
    lora = Lora(4, 8.0)
    attach(network, changes_of(maps_of(network, facts["names"]), lora))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in trained(network).values():
            parameter += 0.5 * torch.randn(parameter.shape, generator=generator)
    kept = {"names": facts["names"]}
    save_adapter(folder, network.arch, trained(network), lora, Base.of(base), tokenizer, None, kept, None, "# An adapter\n")
