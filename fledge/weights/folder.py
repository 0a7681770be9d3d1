"""The model folder: a Hugging Face folder that fledge and `transformers` open, and `fledge.json` for what theirs cannot say."""

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fledge.arch import Arch, Words
from fledge.arch.record import did_you_mean, differences
from fledge.model import Transformer, shell
from fledge.text.chat import FORMATS
from fledge.text.files import MARIAN
from fledge.text.templates import chat_format, is_template
from fledge.text.tokenizer import Tokenizer
from fledge.weights.families import FAMILIES, Family, family_name, family_of, plain
from fledge.weights.files import INDEX, SHARD_BYTES, SHARDS, WHOLE, Stored, read_json, room_for, save_tensors, sha256, write_json
from fledge.weights.hub import resolve
from fledge.weights.rules import claim, read, write
from fledge.weights.sentences import LIMIT, MODULES, POOLING, read_sentences, write_sentences
from fledge.weights.staging import finish, replacing

CONFIG, FACTS, GENERATION, TEMPLATE, CARD = "config.json", "fledge.json", "generation_config.json", "chat_template.jinja", "README.md"
MANNERS = ("tokenizer.json", *MARIAN, TEMPLATE, GENERATION)  # what `write_manners` may write
FORMAT = 1
OWN_NAMES = (
    "\n\nNo published family expresses this architecture, so config.json says `model_type: fledge` and only fledge opens this folder.\n"
)


@dataclass(frozen=True)
class ModelFolder:
    """A model folder without its weights.

    `facts` is fledge.json, with `generation`, `chat_template` and `embedding` as their own files say.
    """

    path: Path
    arch: Arch
    tokenizer: Tokenizer
    facts: dict[str, Any]

    @classmethod
    def at(cls, name: str | Path) -> "ModelFolder":
        """The folder at a path or of a hub id, its small files read and checked against each other.

        Raises `FileNotFoundError` naming a missing part, `ValueError` when two parts do not belong together.
        """
        path = resolve(name)
        finish(path)
        config = read_json(path / CONFIG)
        arch = family_of(config).arch(config, _own_names(Stored(path), family_of(config)))
        facts = read_json(path / FACTS) if (path / FACTS).is_file() else {}
        if "arch" in facts and (differing := differences(plain(arch).to_json(), Arch.from_json(facts["arch"]).to_json(), "arch")):
            raise ValueError(f"{path}: {CONFIG} and {FACTS} disagree ({CONFIG} -> {FACTS}): {'; '.join(differing[:3])}")
        facts.setdefault("names", config["model_type"])
        tokenizer = Tokenizer.load(path)
        given, stands = facts.get("tokenizer"), tokenizer.fingerprint()
        if given not in (None, stands):
            raise ValueError(f"{path}: {FACTS} belongs to the tokenizer with fingerprint {given}, but the one beside it has {stands}")
        check_vocabulary(arch, tokenizer)
        return cls(path, arch, tokenizer, facts | read_manners(path, tokenizer, facts.get("chat")))


def read_manners(path: Path, tokenizer: Tokenizer, chat: str | None) -> dict[str, Any]:
    """How a model writes, converses and makes vectors, as far as the files of its folder say.

    Raises `ValueError` where they do not say that it converses in the format `chat`.
    """
    facts: dict[str, Any] = {}
    if (path / GENERATION).is_file():
        facts["generation"] = read_json(path / GENERATION)
    if (told := read_sentences(path)) is not None:
        facts["embedding"] = told
    if (path / TEMPLATE).is_file():
        facts["chat_template"] = (path / TEMPLATE).read_text(encoding="utf-8")
    elif isinstance(older := tokenizer.config.get("chat_template"), str):
        facts["chat_template"] = older
    if chat is not None and chat_template(chat, tokenizer) != facts.get("chat_template"):
        raise ValueError(f"{path}: {FACTS} says that the chat format is {chat}, but {TEMPLATE} is missing or another")
    return facts


def open_model(
    name: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> tuple[Transformer, Tokenizer, dict[str, Any]]:
    """The model, its tokenizer and the facts of a folder or hub id; ready to predict (`eval`), weights in `dtype` or as stored.

    Headers, shapes and lengths are checked first; then the files are mapped into memory, so that a large model opens at once.
    Raises `FileNotFoundError` or `ValueError` naming the file or tensor that is missing, too much, or of another shape.
    """
    folder = ModelFolder.at(name)
    model = shell(folder.arch)
    family = family_of(read_json(folder.path / CONFIG))
    rules = family.table(folder.arch)
    shapes = {name: tuple(tensor.shape) for name, tensor in write(rules, model.state_dict())}
    stored = Stored(folder.path)
    try:
        present = [name for name in stored.place if name in shapes or not _again(name, stored, family)]
        found = claim(shapes, present, family.BODY, family.IGNORED, family.OLDER)
        _check(stored, {found[name]: shape for name, shape in shapes.items()}, folder.arch, dtype)
    except ValueError as complaint:
        raise ValueError(f"{folder.path}: {complaint}") from None
    given = read(rules, lambda name: stored.tensor(found[name]))
    ours = {name: _placed(tensor, torch.device(device), dtype or tensor.dtype) for name, tensor in given}
    model.load_state_dict(ours, assign=True)
    return model.eval(), folder.tokenizer, folder.facts


def save_model(
    folder: str | Path,
    model: Transformer,
    tokenizer: Tokenizer,
    chat: str | None,
    facts: Mapping[str, Any],
    generation: Mapping[str, Any] | None,
    card: str,
    dtype: torch.dtype = torch.float32,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write the whole model folder, replacing the model that it held in one move.

    `chat` is the name of a chat format, or the Jinja text of another one's template; `generation` holds fields of
    generation_config.json beside the token ids, which come from the tokenizer and the chat format; `card` is README.md;
    `facts` go into fledge.json, `embedding` among them into the files of sentence-transformers; the family that `names` says in them is
    kept where it still expresses the model. Raises `ValueError` for parts that do not belong together, `OSError` when the disk refuses
    (with the bytes needed, where it is full); the old model then stays.
    """
    folder, arch = Path(folder), plain(model.arch)
    check_vocabulary(arch, tokenizer)
    name = family_name(arch, facts.get("names"))
    rules = FAMILIES[name].table(arch)
    size = sum(parameter.numel() for parameter in model.parameters()) * dtype.itemsize
    with replacing(folder, WHOLE, INDEX, SHARDS, *MANNERS, MODULES, LIMIT, POOLING) as stage, room_for("the model", size, folder):
        weights = save_tensors(
            ((name, tensor.detach().to("cpu", dtype)) for name, tensor in write(rules, model.state_dict())), stage, shard_bytes
        )
        ids = token_ids(arch, tokenizer)
        config = {**ids, **FAMILIES[name].config(arch), "dtype": str(dtype).removeprefix("torch.")}
        if config["pad_token_id"] != tokenizer.pad:
            raise ValueError(
                f"the model counts positions from pad token {config['pad_token_id']}, but the tokenizer pads with {tokenizer.pad}"
            )
        write_json(stage / CONFIG, config)
        write_manners(stage, arch, tokenizer, chat, generation)
        if "embedding" in facts:
            write_sentences(stage, facts["embedding"], arch.trunk.width, arch.context)
        (stage / CARD).write_text(card + (OWN_NAMES if name == "fledge" else ""), encoding="utf-8")
        own = {"format": FORMAT, "names": name, "arch": arch.to_json(), "tokenizer": tokenizer.fingerprint(), "weights": weights}
        kept = {key: value for key, value in facts.items() if key not in ("generation", "chat_template", "embedding")}
        write_json(stage / FACTS, {**kept, **own, "chat": chat if chat in FORMATS else None})


def token_ids(arch: Arch, tokenizer: Tokenizer) -> dict[str, int]:
    """The special tokens as their files name them."""
    first = (*tokenizer.opening, tokenizer.end_of_text)[0]
    ids = {"bos_token_id": first, "eos_token_id": tokenizer.end_of_text, "pad_token_id": tokenizer.pad}
    return ids if arch.start is None else {**ids, "decoder_start_token_id": arch.start}


def write_manners(folder: Path, arch: Arch, tokenizer: Tokenizer, chat: str | None, generation: Mapping[str, Any] | None) -> None:
    """The tokenizer, the template of a chat format, and how text is generated; see `save_model`."""
    tokenizer.save(folder, arch.context)
    if chat is not None:
        (folder / TEMPLATE).write_text(chat_template(chat, tokenizer), encoding="utf-8")
    if isinstance(arch.head, Words) and arch.decoder is not None:
        ids = {**token_ids(arch, tokenizer), "eos_token_id": stops(chat, tokenizer)}
        write_json(folder / GENERATION, {**ids, **(generation or {})})


def verify(folder: str | Path) -> None:
    """Compare the weights with the SHA-256 that fledge.json holds; `ValueError` with both values where they differ."""
    folder = Path(folder)
    finish(folder)
    weights = read_json(folder / FACTS).get("weights")
    if not weights:
        raise ValueError(f"{folder / FACTS} holds no hashes of weights to compare with")
    for file, expected in weights.items():
        if not (folder / file).is_file():
            raise FileNotFoundError(f"{folder} has no {file}, which {FACTS} names")
        if (actual := sha256(folder / file)) != expected:
            raise ValueError(f"{folder / file} has SHA-256 {actual}, but {FACTS} names {expected}: the file has changed since it was saved")


def check_vocabulary(arch: Arch, tokenizer: Tokenizer) -> None:
    """`ValueError` when a token has no embedding; a tokenizer smaller than a padded embedding is fine."""
    if tokenizer.size > arch.vocabulary:
        raise ValueError(
            f"the tokenizer has {tokenizer.size:,} tokens, but the model has embeddings for {arch.vocabulary:,}: they are not of one model"
        )


def chat_template(chat: str, tokenizer: Tokenizer) -> str:
    """The Jinja text of a chat format by name, or `chat` itself when it is a template.

    Raises `ValueError` for an unknown name, and for a tokenizer without the format's control tokens.
    """
    if is_template(chat):
        return chat
    if chat not in FORMATS:
        raise ValueError(f"chat format {chat!r} is unknown{did_you_mean(chat, FORMATS)}")
    FORMATS[chat].usable_with(tokenizer)
    return FORMATS[chat].template()


def stops(chat: str | None, tokenizer: Tokenizer) -> list[int]:
    """The ids that end what a model writes; of a template that cannot be used, the end of a text alone."""
    ends = [tokenizer.end_of_text]
    with suppress(ValueError):
        ends += chat_format(chat, tokenizer).stop_tokens(tokenizer) if chat is not None else []
    return list(dict.fromkeys(ends))


def _again(name: str, stored: Stored, family: Family) -> bool:
    """Whether this tensor is one, such as a tied head, that the file stores a second time. Raises `ValueError` when it is another one."""
    original = family.REPEATS.get(name) or family.REPEATS.get(family.BODY + name)
    if original is None:
        return False
    source = original if original in stored.place else original.removeprefix(family.BODY)
    if source not in stored.place or not _equal(stored, name, source):
        raise ValueError(f"tensor {name} differs from {original}, but {CONFIG} says tie_word_embeddings true: set it to false")
    return True


def _own_names(stored: Stored, family: Family) -> list[str]:
    """The tensors of a file but for those that only repeat another."""
    doubled = {name for name, original in family.REPEATS.items() if {name, original} <= stored.place.keys()}
    return [name for name in stored.place if name not in doubled or not _equal(stored, name, family.REPEATS[name])]


def _equal(stored: Stored, one: str, other: str) -> bool:
    """Compared in stretches of rows, so that two large tensors are never both in memory."""
    if stored.shape(one) != stored.shape(other) or stored.dtype(one) != stored.dtype(other):
        return False
    return all(torch.equal(a, b) for a, b in zip(stored.tensor(one).split(4096), stored.tensor(other).split(4096), strict=True))


def _placed(tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """As it is, mapped from its file, where it can stay so; else copied once: `to` and `contiguous` would copy a transposed one twice."""
    if (tensor.device, tensor.dtype) == (device, dtype) and tensor.is_contiguous():
        return tensor
    return torch.empty(tensor.shape, dtype=dtype, device=device).copy_(tensor)


def _check(stored: Stored, shapes: Mapping[str, tuple[int, ...]], arch: Arch, dtype: torch.dtype | None) -> None:
    """Shapes and number types before anything is read; without a `dtype` to convert to, all tensors share one."""
    kinds = {name: stored.dtype(name) for name in shapes}
    usual = Counter(kinds.values()).most_common(1)[0][0]
    for name, shape in shapes.items():
        if stored.shape(name) != shape:
            labels = f" for the labels {', '.join(arch.labels)}" if name.startswith("score.") else ""
            raise ValueError(f"tensor {name} has shape {stored.shape(name)}, but {CONFIG} needs {shape}{labels}")
        if dtype is None and kinds[name] != usual:
            raise ValueError(f"tensor {name} is {kinds[name]}, but the others are {usual}: say which dtype to use")
