"""Karpathy's llama2.c: raw weights of a Llama (https://github.com/karpathy/llama2.c, export.py, version 0) and their tokenizer."""

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tokenizers
import torch
from tokenizers import decoders, models, normalizers, processors
from torch import Tensor

from fledge.arch import Arch, Attention, Block, Mlp, RmsNorm, Rope, Stack, Words
from fledge.model import Transformer, shell
from fledge.text.tokenizer import Tokenizer

HEADER = struct.Struct("<7i")  # dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, seq_len
PICKLES = (b"\x80", b"PK")  # pickle itself, and the zip that torch.save makes
UNKNOWN, BEGIN, END, BYTES = 0, 1, 2, range(3, 259)


def read_llama2c(path: Path, tokenizer: Path | None = None) -> tuple[Transformer, Tokenizer]:
    """The model of a `.bin` file and its tokenizer, by default `tokenizer.bin` or `tokN.bin` beside it, N its vocabulary.

    Raises `ValueError` for a pickle, and for a file whose length is not what its header says; `FileNotFoundError` without a tokenizer.
    """
    with path.open("rb") as file:
        start = file.read(HEADER.size)
    if start.startswith(PICKLES):
        raise ValueError(
            f"{path} is a pickle, which can run code when it is opened: fledge reads safetensors, and of .bin files llama2.c's alone"
        )
    if len(start) < HEADER.size:
        raise ValueError(f"{path} has {len(start)} bytes, but the header of a llama2.c file has {HEADER.size}")
    arch, tables = _described(path, *HEADER.unpack(start))
    needed = HEADER.size + 4 * sum(int(np.prod(shape)) for _, shape in tables)
    if path.stat().st_size != needed:
        raise ValueError(
            f"{path} has {path.stat().st_size:,} bytes, but the sizes in its header need {needed:,}: it is no whole llama2.c file"
        )
    model = shell(arch)
    model.load_state_dict(dict(_ours(arch, np.memmap(path, "<f4", "r", HEADER.size), tables)), assign=True)
    beside = [path.parent / "tokenizer.bin", path.parent / f"tok{arch.vocabulary}.bin"]
    found = tokenizer or next((file for file in beside if file.is_file()), None)
    if found is None:
        raise FileNotFoundError(
            f"{path} has no tokenizer beside it: put {beside[0].name} or {beside[1].name} there, or name it with --tokenizer"
        )
    return model.eval(), read_tokenizer(found, arch.vocabulary)


def _described(
    path: Path, width: int, hidden: int, depth: int, heads: int, kv_heads: int, vocabulary: int, context: int
) -> tuple[Arch, list[tuple[str, tuple[int, ...]]]]:
    """The model that a header describes, and its tensors in the order of the file; a negative vocabulary says that the head is untied."""
    tied, vocabulary = vocabulary > 0, abs(vocabulary)
    try:
        if heads < 1 or width % heads:
            raise ValueError(f"width {width} does not divide into {heads} heads")
        attention = Attention(heads, kv_heads, width // heads, positions=Rope())
        norm = RmsNorm(1e-5)
        arch = Arch(vocabulary, context, Stack(width, depth, (Block(attention, Mlp(hidden), norm),), None, norm), Words(tied))
    except ValueError as complaint:
        raise ValueError(f"{path} is no llama2.c file: {complaint}") from None
    q, kv, angles = width, kv_heads * (width // heads), (context, width // heads // 2)
    tables: list[tuple[str, tuple[int, ...]]] = [
        ("embedding.weight", (vocabulary, width)),
        ("attention.norm_in.weight", (depth, width)),
        ("attention.inner.q.weight", (depth, q, width)),
        ("attention.inner.k.weight", (depth, kv, width)),
        ("attention.inner.v.weight", (depth, kv, width)),
        ("attention.inner.o.weight", (depth, width, q)),
        ("mlp.norm_in.weight", (depth, width)),
        ("mlp.inner.gate.weight", (depth, hidden, width)),
        ("mlp.inner.down.weight", (depth, width, hidden)),
        ("mlp.inner.up.weight", (depth, hidden, width)),
        ("decoder.norm_final.weight", (width,)),
        ("cosines", angles),
        ("sines", angles),
        *([] if tied else [("head.weight", (vocabulary, width))]),
    ]
    return arch, tables


def _ours(arch: Arch, numbers: np.ndarray, tables: list[tuple[str, tuple[int, ...]]]) -> Iterator[tuple[str, Tensor]]:
    """The tensors by our names; theirs hold all layers, and turn neighbouring numbers where ours turn the halves of a head."""
    size, at = arch.trunk.pattern[0].attention.head_size, 0
    for name, shape in tables:
        count = int(np.prod(shape))
        tensor = torch.from_numpy(numbers[at : at + count].reshape(shape).copy())
        at += count
        if name.endswith((".q.weight", ".k.weight")):
            tensor = tensor.unflatten(1, (-1, size // 2, 2)).transpose(2, 3).flatten(1, 3)
        if name.startswith(("attention", "mlp")):
            yield from ((f"decoder.blocks.{i}.{name}", layer.contiguous()) for i, layer in enumerate(tensor))
        elif name not in ("cosines", "sines"):
            yield name, tensor


def read_tokenizer(path: Path, vocabulary: int) -> Tokenizer:
    """The tokenizer of a llama2.c `tokenizer.bin`: SentencePiece's BPE by scores, with bytes for what is no piece.

    Raises `ValueError` for a file that does not hold exactly `vocabulary` pieces.
    """
    contents, at, pieces = path.read_bytes(), 4, list[tuple[str, float]]()
    try:
        while at < len(contents):
            score, length = struct.unpack_from("<fi", contents, at)
            at += 8 + length
            if length < 0 or at > len(contents):
                raise ValueError(f"piece {len(pieces)} has {length} bytes")
            pieces.append((contents[at - length : at].decode("utf-8").strip("\n").replace(" ", "▁"), score))
        if len(pieces) != vocabulary:
            raise ValueError(f"it has {len(pieces)} pieces, but the model {vocabulary} tokens")
    except (struct.error, UnicodeDecodeError, ValueError) as complaint:
        raise ValueError(f"{path} is no tokenizer of llama2.c for this model: {complaint}") from None
    ids = {piece: number for number, (piece, _) in enumerate(pieces)}
    learned = pieces[BYTES.stop :]
    merges = [
        (left, right)
        for piece, _ in sorted(learned, key=lambda one: -one[1])
        for left, right in ((piece[:i], piece[i:]) for i in range(1, len(piece)))
        if ids.get(left, 0) >= BYTES.stop and ids.get(right, 0) >= BYTES.stop
    ]
    unknown, begin, end = (pieces[number][0] for number in (UNKNOWN, BEGIN, END))
    backend = tokenizers.Tokenizer(models.BPE(vocab=ids, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    backend.add_special_tokens([unknown, begin, end])
    backend.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", pair=f"{begin} $A {begin} $B", special_tokens=[(begin, BEGIN)]
    )
    return Tokenizer(backend, {"bos_token": begin, "eos_token": end, "unk_token": unknown, "add_bos_token": True})
