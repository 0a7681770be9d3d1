"""GGUF, the file of llama.cpp and what stands on it: one file with weights, tokenizer, chat template and facts.

The format: github.com/ggml-org/ggml/blob/master/docs/gguf.md; it is written by llama.cpp's own package `gguf`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fledge.arch import parameter_count
from fledge.data.files import sync
from fledge.formats.graphs import Fields, Graph, graph_of
from fledge.formats.llamacpp import Checked, check, installed
from fledge.formats.vocabulary import vocabulary
from fledge.model import Transformer
from fledge.text.chat import ChatFormat
from fledge.text.templates import Template, chat_format
from fledge.text.tokenizer import Tokenizer
from fledge.weights.files import room_for
from fledge.weights.folder import chat_template, stops
from fledge.weights.rules import write

if TYPE_CHECKING:
    from gguf import GGUFWriter

BLOCK = 32  # numbers that share one scale in Q8_0


@dataclass(frozen=True)
class Format:
    """How matrices are stored: their type in GGUF, the name of a file of them (gguf.LlamaFileType), and bytes a number."""

    kind: str
    file_type: str
    bytes: float


FORMATS = {
    "f32": Format("F32", "ALL_F32", 4),
    "f16": Format("F16", "MOSTLY_F16", 2),
    "bf16": Format("BF16", "MOSTLY_BF16", 2),
    "q8_0": Format("Q8_0", "MOSTLY_Q8_0", 34 / 32),
}
# Besides what has one dimension, as in llama.cpp's converter: there it asks for fp32.
WHOLE = ("position_embd.weight", "ffn_gate_inp.weight", "rope_freqs.weight")
SAMPLING = {  # fields of generation_config.json: those of GGUF
    "temperature": "temp", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p", "repetition_penalty": "penalty_repeat",
}  # fmt: skip


@dataclass(frozen=True)
class Gguf:
    """A model as a file of llama.cpp, ready to be written.

    `facts` are those of the model's folder, `about` what its card tells: `name`, and where it says so `license`, `description`, ...
    """

    network: Transformer
    tokenizer: Tokenizer
    facts: Mapping[str, Any]
    about: Mapping[str, Any]
    quantize: str

    def __post_init__(self):
        if self.quantize not in FORMATS:
            raise ValueError(f"{self.quantize!r} is no type of numbers: use one of {', '.join(FORMATS)}")

    @property
    def graph(self) -> Graph:
        return graph_of(self.network.arch)

    @property
    def chat(self) -> str | None:
        """The name or the template of the format that it converses in."""
        return self.facts.get("chat") or self.facts.get("chat_template")

    def fields(self) -> Fields:
        """All fields of the file by their whole names, but for its architecture's, which the writer adds.

        Raises `ValueError` with the reason for a model or a tokenizer that llama.cpp does not compute alike.
        """
        import gguf

        graph, arch, chat = self.graph, self.network.arch, self.chat
        tokens = vocabulary(self.tokenizer, arch.vocabulary, stops(chat, self.tokenizer))
        found: Fields = {
            "general.type": "model",
            "general.size_label": size_label(self.network),
            "general.file_type": int(gguf.LlamaFileType[FORMATS[self.quantize].file_type]),
            "general.quantization_version": gguf.GGML_QUANT_VERSION,
            **{f"general.{name}": value for name, value in self.about.items()},
            **{f"general.sampling.{name}": value for name, value in self._sampling().items()},
            **{f"{graph.name}.{name}": value for name, value in graph.fields(arch).items()},
            **{f"tokenizer.ggml.{name}": value for name, value in tokens.items()},
        }
        return found if chat is None else {**found, "tokenizer.chat_template": chat_template(chat, self.tokenizer)}

    def _sampling(self) -> Fields:
        """The settings of generation_config.json; without `do_sample` the best word is taken."""
        told = self.facts.get("generation") or {}
        given = told if told.get("do_sample") else {**told, "temperature": 0.0}
        return {
            ours: given[name] * 1.0 if name != "top_k" else given[name] for name, ours in SAMPLING.items() if given.get(name) is not None
        }

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Each tensor by its name there, in fp32 where it came so, one at a time."""
        yield from self.graph.constants(self.network.arch).items()
        yield from write(self.graph.table(self.network.arch), self.network.state_dict())

    def write(self, path: Path) -> Checked | None:
        """Write the file, and what llama.cpp and the model agree on where llama.cpp is here; whatever stops it, `path` is as it was.

        Raises `OSError` when the disk is full, `ValueError` for what the format cannot hold, and where the two disagree.
        """
        import gguf

        fields, new = self.fields(), path.with_name(path.name + ".new")
        writer = gguf.GGUFWriter(None, self.graph.name)
        for name, value in fields.items():
            _add(writer, name, value)
        total = 0
        for name, tensor in self.tensors():  # made twice rather than on meta, which imports the half of torch
            shape, one = tensor.shape, self._format(name, tensor.shape)
            total += (size := round(shape.numel() * one.bytes))
            kind = gguf.GGMLQuantizationType[one.kind]
            stored = gguf.quant_shape_to_byte_shape(shape, kind) if one.kind == "Q8_0" else tuple(shape)
            writer.add_tensor_info(name, stored, np.dtype(np.uint8 if one.kind == "Q8_0" else np.float32), size, kind)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with room_for("the file", total, path.parent):
                writer.write_header_to_file(new)
                writer.write_kv_data_to_file()
                writer.write_ti_data_to_file()
                for name, tensor in self.tensors():
                    writer.write_tensor_data(self._stored(name, tensor))
                writer.close()
            sync(new)
            checked = check(new, self.network, self.tokenizer, self._form(), self.quantize) if installed() else None
            os.replace(new, path)
            sync(path.parent)
            return checked
        finally:
            writer.close()
            new.unlink(missing_ok=True)

    def _form(self) -> ChatFormat | Template | None:
        """The format that it converses in, where it can be used here too."""
        if self.chat is None:
            return None
        form = chat_format(self.chat, self.tokenizer)
        with suppress(ValueError):
            form.usable_with(self.tokenizer)
            return form
        return None

    def _format(self, name: str, shape: torch.Size) -> Format:
        if len(shape) == 1 or name.endswith(WHOLE):
            return FORMATS["f32"]
        return FORMATS["f16" if self.quantize == "q8_0" and shape[-1] % BLOCK else self.quantize]

    def _stored(self, name: str, tensor: Tensor) -> np.ndarray:
        tensor = tensor.detach().cpu()
        match self._format(name, tensor.shape).kind:
            case "F32":
                return tensor.float().numpy()
            case "BF16":
                return tensor.bfloat16().contiguous().view(torch.int16).numpy()
            case "F16":
                half = tensor.half()
                if not half.isfinite().all():
                    raise ValueError(
                        f"tensor {name} has numbers up to {tensor.abs().max():.4g}, but f16 ends at 65,504: use --quantize bf16"
                    )
                return half.numpy()
            case _:
                import gguf

                return gguf.quantize(tensor.float().contiguous().numpy(), gguf.GGMLQuantizationType.Q8_0)


def size_label(network: Transformer) -> str:
    """How many parameters, as files of llama.cpp are called: `124M`, or `8x7B` with experts."""
    from gguf.utility import model_weight_count_rounded_notation

    return model_weight_count_rounded_notation(parameter_count(network.arch), 3)


def file_name(name: str, network: Transformer, quantize: str) -> str:
    """What llama.cpp's convention calls the file, such as `assistant-124M-F16.gguf`."""
    from gguf.utility import naming_convention

    return naming_convention(re.sub(r"[^\w.-]+", "-", name), None, None, None, size_label(network), quantize) + ".gguf"


def _add(writer: GGUFWriter, name: str, value: Any) -> None:
    match value:
        case bool():
            writer.add_bool(name, value)
        case int():
            writer.add_uint32(name, value)
        case float():
            writer.add_float32(name, value)
        case str():
            writer.add_string(name, value)
        case _:
            writer.add_array(name, value)
