"""The adapter folder: PEFT's, which `peft` and `transformers` open too, and `fledge.json` for what theirs cannot say."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fledge.adapt.low import Change, attach, changes_of, maps_of, merge, table_of, tables_of, tail, twin
from fledge.adapt.settings import Lora, matches
from fledge.arch import Arch, Classes, Words
from fledge.model import Transformer, shell, with_new_head
from fledge.text.files import holds_tokenizer
from fledge.text.tokenizer import Tokenizer
from fledge.weights import folder as whole
from fledge.weights.families import classifier, plain
from fledge.weights.files import hashes, read_json, room_for, sha256, write_json
from fledge.weights.folder import CARD, CONFIG, FACTS, FORMAT, MANNERS, ModelFolder
from fledge.weights.hub import resolve
from fledge.weights.rules import Rule, claim, read, rule, write
from fledge.weights.staging import finish, replacing

ADAPTER, TENSORS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."  # of all names in PEFT's files
PLAIN: dict[str, Any] = {  # what is computed here, whatever else PEFT can
    "peft_type": "LORA", "bias": "none", "lora_bias": False, "use_rslora": False, "use_qalora": False, "layer_replication": None,
    "target_parameters": None, "alora_invocation_tokens": None, "use_bdlora": None,
    "arrow_config": None, "kasa_config": None, "monteclora_config": None,
}  # fmt: skip


@dataclass(frozen=True)
class Base:
    """The whole model that an adapter changes: its folder or hub id, and the SHA-256 of each file of its weights."""

    name: str
    weights: dict[str, str]

    @classmethod
    def of(cls, name: str | Path) -> "Base":
        """The model at a path or of a hub id. Raises `ValueError` for an adapter, which is no whole model."""
        path = resolve(name)
        if is_adapter(path):
            raise ValueError(f"{name} is an adapter: make it one model with its base first, by fledge import {name} --out DIR")
        stated = read_json(path / FACTS).get("weights") if (path / FACTS).is_file() else None
        return cls(str(path.resolve()) if Path(name).expanduser().is_dir() else str(name), stated or hashes(path))


def is_adapter(path: Path) -> bool:
    """Whether a folder holds an adapter and no whole model."""
    finish(path)
    return (path / ADAPTER).is_file() and not (path / CONFIG).is_file()


@dataclass(frozen=True)
class AdapterFolder:
    """An adapter folder without its weights: PEFT's `config`, and the `facts` of fledge.json and the files beside it."""

    path: Path
    config: dict[str, Any]
    facts: dict[str, Any]

    @classmethod
    def at(cls, name: str | Path) -> "AdapterFolder":
        """The folder at a path or of a hub id. Raises `ValueError` for an adapter of another kind than LoRA and DoRA."""
        path = resolve(name)
        config = read_json(path / ADAPTER)
        for field, needed in PLAIN.items():
            if config.get(field, needed) not in (needed, needed or None):
                raise ValueError(f"{path / ADAPTER}: {field} is {config[field]!r}, but fledge opens adapters with {needed!r} only")
        if not config.get("base_model_name_or_path"):
            raise ValueError(f"{path / ADAPTER} does not say which model it changes: set base_model_name_or_path")
        return cls(path, config, read_json(path / FACTS) if (path / FACTS).is_file() else {})

    @property
    def base(self) -> str:
        """The folder or hub id of the model that it changes, as recorded."""
        return self.config["base_model_name_or_path"]

    def found_base(self) -> Path:
        """Where that model is. Raises `FileNotFoundError` where it is not there, `ValueError` where it is another than it was."""
        try:
            path = resolve(self.base)
        except FileNotFoundError as missing:
            raise FileNotFoundError(
                f"{self.path} is an adapter for {self.base}, which is not there ({missing}): put that model there, or set "
                f"base_model_name_or_path in {self.path / ADAPTER} to where it is"
            ) from None
        recorded = (self.facts.get("base") or {}).get("weights")
        if recorded is not None and (now := Base.of(path).weights) != recorded:
            file = next(file for file in {**recorded, **now} if recorded.get(file) != now.get(file))
            raise ValueError(
                f"{self.path} is an adapter for {self.base} as it was when {file} had SHA-256 {recorded.get(file)}, but now it has "
                f"{now.get(file)}: bring back the model that it was trained on"
            )
        return path

    def words(self, base: Tokenizer) -> Tokenizer:
        """Its tokenizer, that of the base where it has none."""
        own = Tokenizer.load(self.path) if holds_tokenizer(self.path) else base
        given = self.facts.get("tokenizer")
        if given not in (None, own.fingerprint()):
            raise ValueError(
                f"{self.path}: {FACTS} belongs to the tokenizer with fingerprint {given}, but the one beside it has {own.fingerprint()}"
            )
        return own

    def arch(self, base: Arch, shapes: Mapping[str, Sequence[int]], names: str | None) -> Arch:
        """The base's architecture, with the head that the adapter brings."""
        if "arch" in self.facts:
            return Arch.from_json(self.facts["arch"])
        if not self.config.get("modules_to_save"):
            return base
        scores = [shape[0] for name, shape in shapes.items() if re.search(r"\.(score|classifier|out_proj)\.weight$", name)]
        if not scores:
            raise ValueError(f"{self.path / ADAPTER}: modules_to_save is {self.config['modules_to_save']}, but fledge opens heads only")
        return base.with_head(classifier(base, [f"LABEL_{number}" for number in range(scores[-1])], preferred=names))


def open_model(
    name: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> tuple[Transformer, Tokenizer, dict[str, Any]]:
    """What `fledge.weights.open_model` opens, or an adapter merged into its base.

    Raises `FileNotFoundError` for a base that is not where the adapter says, `ValueError` for one that has changed since.
    """
    path = resolve(name)
    if not is_adapter(path):
        return whole.open_model(path, device, dtype)
    network, tokenizer, facts = open_adapted(path, device, dtype)
    return merge(network).eval(), tokenizer, facts


def open_adapted(
    name: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> tuple[Transformer, Tokenizer, dict[str, Any]]:
    """An adapter's base with the adapter beside its weights; see `open_model`."""
    given = AdapterFolder.at(name)
    return put_on_base(given, *whole.open_model(given.found_base(), device, dtype))


def beside(
    adapter: str | Path, base: str | Path, network: Transformer, words: Tokenizer, facts: Mapping[str, Any]
) -> tuple[Transformer, Tokenizer, dict[str, Any]]:
    """A model with an adapter, of a `base` that is open already: the weights of both are in memory once, and the base stays as it is.

    Raises `ValueError` for an adapter of another model.
    """
    given, there = AdapterFolder.at(adapter), Base.of(base)
    recorded = (given.facts.get("base") or {}).get("weights", there.weights if resolve(given.base) == resolve(base) else None)
    if recorded != there.weights:
        raise ValueError(f"{adapter} is an adapter for {given.base}, not for {base}: its weights are others")
    return put_on_base(given, twin(network), words, facts)


def put_on_base(
    given: AdapterFolder, network: Transformer, words: Tokenizer, facts: Mapping[str, Any]
) -> tuple[Transformer, Tokenizer, dict[str, Any]]:
    """The same for a base that is open already, whose modules the adapter changes.

    Raises `ValueError` naming the tensor that is missing, too much, or of another shape.
    """
    try:
        with safe_open(given.path / TENSORS, "pt") as stored:
            held = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (a handle is no dictionary)
    except SafetensorError as error:
        raise ValueError(f"{given.path / TENSORS} is no whole safetensors file ({error}): copy it again") from None
    names, weight = given.facts.get("names") or facts.get("names"), network.embedding.weight
    arch = given.arch(network.arch, {name: tensor.shape for name, tensor in held.items()}, names)
    if arch.head != network.arch.head:
        network = with_new_head(network, arch.head).to(weight.device, weight.dtype)
    changes = [change for known in maps_of(network, names) if (change := stored_change(known, given.config, held)) is not None]
    tokens = stored_tokens(network, given.config.get("trainable_token_indices"), names)
    attach(network, changes, tokens=tokens)
    rules = adapter_rules(network, changes, names, tokens)
    parts = dict(network.named_parameters())
    wanted = {name: tuple(tensor.shape) for name, tensor in write(rules, {name: parts[name] for row in rules for name in row.ours})}
    try:
        claim(wanted, held)
        for name, shape in wanted.items():
            if tuple(held[name].shape) != shape:
                raise ValueError(f"tensor {name} has shape {tuple(held[name].shape)}, but its base needs {shape}")
    except ValueError as complaint:
        raise ValueError(f"{given.path / TENSORS} on {given.base}: {complaint}") from None
    with torch.no_grad():
        for name, tensor in read(rules, held.__getitem__):
            parts[name].copy_(tensor)
    network.to(weight.dtype)
    tokenizer = given.words(words)
    own = {**given.facts, "names": names}
    manners = whole.read_manners(given.path, tokenizer, own.get("chat"))
    if "arch" not in own:  # an adapter that fledge did not write converses as its base does
        own = {**{key: facts[key] for key in ("chat", "chat_template", "generation") if key in facts}, **own}
    return network.eval(), tokenizer, own | manners


def stored_change(known: Any, config: Mapping[str, Any], held: Mapping[str, Tensor]) -> Change | None:
    """How an adapter changes a map, by the tensors that it holds for it; none where it does not."""
    a = held.get(f"{PREFIX}{known.name}.lora_A.weight")
    if a is None:
        return None
    patterns = config.get("alpha_pattern") or {}
    alpha = next((alpha for pattern, alpha in patterns.items() if matches(pattern, known.name)), config.get("lora_alpha", 8))
    return Change(known, len(a), float(alpha), dora=bool(config.get("use_dora")))


def stored_tokens(model: Transformer, config: Sequence[int] | Mapping[str, Sequence[int]] | None, names: str | None) -> tuple[int, ...]:
    """The tokens whose vectors an adapter brings. Raises `ValueError` where it brings others for one table than for another."""
    if not config:
        return ()
    wanted = tables_called(model, names)
    given = {last(name): tuple(ids) for name, ids in config.items()} if isinstance(config, Mapping) else {wanted[0]: tuple(config)}
    if not {*wanted} <= given.keys() or len({*given.values()}) > 1:
        raise ValueError(
            f"trainable_token_indices is {config!r}, but fledge opens adapters with the same tokens for {' and '.join(wanted)} only"
        )
    return given[wanted[0]]


def last(name: str) -> str:
    """The last part of a dotted name."""
    return name.rpartition(".")[2]


def tables_called(model: Transformer, names: str | None) -> list[str]:
    """The last parts of the published names of the tables of a vector for each token."""
    return [last(theirs) for theirs in table_names(model, names).values()]


def table_names(model: Transformer, names: str | None) -> dict[str, str]:
    """The tables of a vector for each token, by our names, under their published ones."""
    ours = [f"{name}.weight" for name, part in model.named_modules() if any(part is table for table in tables_of(model))]
    return {
        row.ours[0].removesuffix(".weight"): row.theirs[0].removesuffix(".weight")
        for row in table_of(model, names)
        if row.ours[0] in ours
    }  # fmt: skip


def adapter_rules(model: Transformer, changes: Sequence[Change], names: str | None, tokens: Sequence[int] = ()) -> list[Rule]:
    """Which tensor of PEFT's is whose of a model with these changes attached; a classifier's head is theirs as its family has it."""
    rules = []
    if tokens:
        told = table_names(model, names).items()
        rules += [rule(f"{PREFIX}{theirs}.token_adapter.trainable_tokens_delta", f"{ours}.rows.values") for ours, theirs in told]
    for change in changes:
        theirs, ours = PREFIX + change.map.name, f"{change.map.ours[0]}.low"
        rules += [rule(f"{theirs}.lora_A.weight", f"{ours}.a"), rule(f"{theirs}.lora_B.weight", f"{ours}.b")]
        rules += [rule(f"{theirs}.lora_magnitude_vector", f"{ours}.magnitude")] if change.dora else []
    if isinstance(model.arch.head, Classes):
        rules += [rule(tuple(PREFIX + name for name in row.theirs), row.ours, *row.steps) for row in head_rules(model, names)]
    return rules


def head_rules(model: Transformer, names: str | None) -> list[Rule]:
    return [row for row in table_of(model, names) if all(name.startswith("head.") for name in row.ours)]


def save_adapter(
    folder: str | Path, arch: Arch, tensors: Mapping[str, Tensor], lora: Lora, base: Base, tokenizer: Tokenizer, chat: str | None,
    facts: Mapping[str, Any], generation: Mapping[str, Any] | None, card: str,
) -> None:  # fmt: skip
    """Write the whole adapter folder, replacing the one that it held in one move.

    `tensors` are those that were trained, by their names in a model of this `arch` to which `lora` is attached; the rest is as in
    `fledge.weights.save_model`.
    """
    folder, bare, names = Path(folder), shell(arch), facts.get("names")
    changes = changes_of(maps_of(bare, names), lora)
    rules = adapter_rules(bare, changes, names, lora.tokens)
    written = {name: tensor.detach().to("cpu", torch.float32).contiguous() for name, tensor in write(rules, tensors)}
    size = sum(tensor.nbytes for tensor in written.values())
    with replacing(folder, *MANNERS) as stage, room_for("the adapter", size, folder):
        save_file(written, stage / TENSORS, {"format": "pt"})
        write_json(stage / ADAPTER, peft_config(bare, changes, lora, base.name, names))
        whole.write_manners(stage, arch, tokenizer, chat, generation)
        (stage / CARD).write_text(card, encoding="utf-8")
        own = {"format": FORMAT, "names": names, "arch": plain(arch).to_json(), "tokenizer": tokenizer.fingerprint()}
        own |= {"weights": {TENSORS: sha256(stage / TENSORS)}, "base": {"name": base.name, "weights": base.weights}}
        kept = {key: value for key, value in facts.items() if key not in ("generation", "chat_template", "embedding")}
        write_json(stage / FACTS, {**kept, **own, "chat": chat if chat in whole.FORMATS else None})


def peft_config(model: Transformer, changes: Sequence[Change], lora: Lora, base: str, names: str | None) -> dict[str, Any]:
    """adapter_config.json; the fields are those of PEFT's LoraConfig."""
    head = model.arch.head
    task = "SEQ_CLS" if isinstance(head, Classes) else "FEATURE_EXTRACTION"
    if isinstance(head, Words) and model.arch.decoder is not None:
        task = "CAUSAL_LM" if len(model.arch.stacks) == 1 else "SEQ_2_SEQ_LM"
    chosen, known = [change.map.name for change in changes], [found.name for found in maps_of(model, names)]
    tails = sorted({tail(name) for name in chosen})
    exact = all(name in chosen for name in known if any(matches(re.escape(end), name) for end in tails))
    saved = sorted({name.rpartition(".")[0] for row in head_rules(model, names) for name in row.theirs}) if task == "SEQ_CLS" else None
    return {
        "peft_type": "LORA", "task_type": task, "base_model_name_or_path": base, "r": lora.rank, "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout, "target_modules": tails if exact else chosen, "rank_pattern": dict(lora.ranks), "alpha_pattern": {},
        "fan_in_fan_out": any(change.map.transposed for change in changes), "use_dora": lora.dora, "modules_to_save": saved, "bias": "none",
        "use_rslora": False, "init_lora_weights": True, "inference_mode": True, "revision": None,
        "trainable_token_indices": {name: list(lora.tokens) for name in tables_called(model, names)} if lora.tokens else None,
    }  # fmt: skip


def verify(name: str | Path) -> None:
    """Compare the weights of a folder, and of an adapter's base, with the SHA-256 that was recorded; `ValueError` where they differ."""
    path = resolve(name)
    whole.verify(path)
    if is_adapter(path) and (found := AdapterFolder.at(path).found_base() / FACTS).is_file():
        whole.verify(found.parent)


def folder_at(name: str | Path) -> ModelFolder:
    """The model folder at a path or of a hub id; of an adapter that of its base, with the adapter's architecture, tokenizer and facts."""
    path = resolve(name)
    if not is_adapter(path):
        return ModelFolder.at(path)
    given = AdapterFolder.at(path)
    base = ModelFolder.at(given.found_base())
    tokenizer = given.words(base.tokenizer)
    with safe_open(given.path / TENSORS, "pt") as stored:
        shapes = {name: stored.get_slice(name).get_shape() for name in stored.keys()}  # noqa: SIM118
    arch = given.arch(base.arch, shapes, base.facts.get("names"))
    return ModelFolder(path, arch, tokenizer, {**given.facts, **whole.read_manners(path, tokenizer, given.facts.get("chat"))})
