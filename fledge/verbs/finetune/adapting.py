"""`--lora`: what each way of fine-tuning does to train an adapter beside a frozen model instead of the model itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from fledge.adapt.settings import Lora
from fledge.verbs import terminal
from fledge.verbs.session import ModelWriter, card

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from fledge.model import Transformer
    from fledge.text import ChatFormat, Template, Tokenizer, Turns
    from fledge.train.run import Run
    from fledge.train.training import Snapshot
    from fledge.verbs.session import Parent

Rank = Annotated[int, Parameter(metavar="RANK")]


def refuse_adapter_of_nothing(rank: int | None, from_: object) -> None:
    """Raise `ValueError` for an adapter of random weights, which nobody could load again."""
    if rank is not None and from_ is None:
        raise ValueError("--lora trains an adapter for a model that is there: start from one with --from MODEL")


def adapting(
    run: Run, rank: int | None, parent: Parent, form: ChatFormat | Template | None = None, turns: Sequence[Turns] = ()
) -> Run:  # fmt: skip
    """The run with an adapter of this rank, at twice the rank as alpha, and the optimiser that suits one; itself without a rank.

    Where a model learns to converse that never did, vectors of tokens are learned whole: of those that the format writes, and of the
    commonest of what is learned from, `turns`, until they are as many numbers as the low-rank changes.
    """
    from fledge.train.plan import adapter_optimizer

    if rank is None:
        return run
    lora, tokens = Lora(rank, alpha=2.0 * rank), ()
    if form is not None and not (parent.facts.get("chat") or parent.facts.get("chat_template")):
        tokens = tokens_to_learn(controls_of(form, parent.tokenizer), turns, lora, parent)
    return replace(run, adapter=replace(lora, tokens=tokens), optimizer=adapter_optimizer(parent.optimizer))


def tokens_to_learn(controls: Sequence[int], turns: Sequence[Turns], lora: Lora, parent: Parent) -> tuple[int, ...]:
    """The ids of `controls`, and of the commonest tokens of `turns`, as many as have no more numbers in all than the low-rank changes."""
    from fledge.adapt.low import changes_of, maps_of, tables_of

    changes = changes_of(maps_of(parent.network, parent.facts.get("names")), lora)
    numbers = sum(change.rank * (change.map.inputs + sum(change.map.outputs)) for change in changes)
    room = numbers // sum(table.weight.shape[1] for table in tables_of(parent.network))
    common = Counter(token for turn in turns for token in turn.tokens if token not in controls)
    return tuple(sorted([*controls, *(token for token, _ in common.most_common(max(0, room - len(controls))))]))


def controls_of(form: ChatFormat | Template, tokenizer: Tokenizer) -> tuple[int, ...]:
    """The ids of the control tokens that a format writes around a question and its answer."""
    from fledge.text import Message

    written = form.encode(tokenizer, [Message("user", "a"), Message("assistant", "b")]).tokens
    return tuple(sorted({*written} & {*tokenizer.controls.values()}))


def trainee(model: Transformer, run: Run, parent: Parent) -> Transformer:
    """The model that is trained: this one, or this one frozen with the run's adapter attached, which it says."""
    from fledge.adapt.low import attach, changes_of, hold_as, maps_of, trained
    from fledge.train.parallel.ranks import ranks

    if run.adapter is None:
        return model
    if run.adapter.frozen != "whole" and ranks() > 1:
        raise ValueError(f"adapter.frozen is {run.adapter.frozen}, but several processes hold whole weights only: leave it out")
    if run.adapter.tokens and run.machine.tensor > 1:
        raise ValueError(f"adapter.tokens are rows of whole tables, but machine.tensor is {run.machine.tensor}: set adapter.tokens=[]")
    attach(model, changes_of(maps_of(model, parent.facts.get("names")), run.adapter), run.machine.seed, run.adapter.tokens)
    learned, every = (sum(p.numel() for p in part) for part in (trained(model).values(), model.parameters()))
    hold_as(model, run.adapter.frozen)
    terminal.say(f"  an adapter of rank {run.adapter.rank}: {learned:,} parameters are trained beside {every - learned:,} frozen ones")
    return model


def writer_for(out: Path, tokenizer: Tokenizer, run: Run, parent: Parent | None, **named: Any) -> ModelWriter:
    """What writes the model folder of this run, or its adapter folder."""
    kind = ModelWriter if run.adapter is None else AdapterWriter
    return kind(out, tokenizer, run=run, parent=parent, **named)


class AdapterWriter(ModelWriter):
    """Writes the adapter folder `out` instead of a model folder. Raises `ValueError` when the base is not the one that it was begun on."""

    def __init__(self, *arguments: Any, **named: Any):
        from fledge.adapt.folder import Base
        from fledge.weights.files import read_json

        super().__init__(*arguments, **named)
        self.lora, parent = named["run"].adapter, named["parent"]
        self.base, self.names = Base.of(parent.name), parent.facts.get("names")
        begun = read_json(self.out / "fledge.json") if (self.out / "fledge.json").is_file() else {}
        if "base" in begun and begun["base"]["weights"] != self.base.weights:
            raise ValueError(f"{self.out} holds an adapter for {self.base.name} as it was before it changed: give another --out")

    def export(self, snapshot: Snapshot, scores: Mapping[str, Any]) -> None:
        from fledge.model import shell

        assert snapshot.whole is not None
        self.write(shell(snapshot.arch), snapshot.whole, scores)

    def save(self, model: Transformer, scores: Mapping[str, Any]) -> None:
        from fledge.adapt.low import trained

        self.write(model, trained(model), scores)

    def write(self, model: Transformer, tensors: Mapping[str, Tensor], scores: Mapping[str, Any]) -> None:
        from fledge.adapt.folder import save_adapter

        facts = {**self.facts, "names": self.names, "scores": dict(scores)}
        about = card(self.out.name, model.arch, facts, self.about)
        save_adapter(self.out, model.arch, tensors, self.lora, self.base, self.tokenizer, self.chat, facts, self.generation, about)

    def best(self, device: str) -> Transformer:
        from fledge.adapt.folder import open_adapted

        return open_adapted(self.out, device=device)[0]
