"""`finetune pairs`: a model that writes a target for a source, such as a translation or a summary, and how good its texts are."""

from __future__ import annotations

import time as clock
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fledge.arch.record import to_json
from fledge.text.files import TOKENIZER_CONFIG
from fledge.train.tracking import wanted
from fledge.verbs import terminal
from fledge.verbs.finetune.adapting import Rank, adapting, refuse_adapter_of_nothing, trainee, writer_for
from fledge.verbs.machine import look
from fledge.verbs.model import Dtype
from fledge.verbs.session import (
    AFTER,
    VALIDATION_TOKENS,
    Column,
    Duration,
    Name,
    Parent,
    Place,
    PresetName,
    Settings,
    Trackers,
    applied,
    arch_of,
    asked_of,
    begun_run,
    command_began,
    fingerprint,
    framing_for,
    open_worded,
    preset_of,
    refuse_other_data,
    seconds_of,
    settings_of,
    together,
    watched,
    within,
)

if TYPE_CHECKING:
    from fledge.arch import Arch
    from fledge.data.parallel import Parallel
    from fledge.evaluation.generated import TextScore
    from fledge.model import Transformer
    from fledge.presets import Preset
    from fledge.text import Tokenizer
    from fledge.train.run import Machine, Run

MEASURED = 200  # held-out pairs that are written out at the end, where the time is enough
EXAMPLES = 5
REHEARSED = 32, 8  # sources side by side, and tokens for each, from which follows what writing costs
TIDYING = 0.02  # of the time, for scores and saving at the end
TOKENS = 4096  # a step, sources and targets together, about
CHECKED = 1 / 7  # as many tokens at most, of those that a given time can train on, are validated on: a forward pass is a third of a step
SEARCHING = {"do_sample": False, "num_beams": 4, "length_penalty": 1.0}


@dataclass(frozen=True)
class Written:
    """A held-out source, its own target, and what the model writes for it."""

    source: str
    target: str
    written: str


@dataclass(frozen=True)
class Paired:
    """The folder of a model that writes targets for sources, and how near they come to those of held-out pairs."""

    out: str
    steps: int
    tokens: int
    seconds: float
    validation: dict[str, float]
    pairs: int
    measured: int
    scores: tuple[TextScore, ...]
    examples: tuple[Written, ...]

    def __str__(self) -> str:
        found = "".join(
            f"\n{score.measure} {score.interval} on {self.measured:,} held-out pairs ({score.signature})" for score in self.scores
        )
        return f"{self.out}: {self.pairs:,} pairs, {self.steps:,} steps, {terminal.duration(self.seconds)}{found}"


@together
def pairs(
    data: Place,
    /,
    *,
    out: Place,
    from_: Name | None = None,
    arch: PresetName | None = None,
    lora: Rank | None = None,
    source_column: Column | None = None,
    target_column: Column | None = None,
    tokenizer: str | None = None,
    vocab: int | None = None,
    label_smoothing: float = 0.1,
    validation: float = 0.1,
    epochs: int = 10,
    time: Duration | None = None,
    set: Settings | None = None,
    seed: int = 0,
    device: str = "auto",
    dtype: Dtype = "auto",
    threads: int = 0,
    deterministic: bool = False,
    track: Trackers | None = None,
) -> Paired:
    """Teach a model to write a target for a source: translations, summaries.

    Args:
        data: a table with two columns of text (.csv .tsv .jsonl .json .parquet), or one of two files such as train.de and train.en.
        out: the model's folder.
        from_: the model to start from, one with an encoder and a decoder.
        arch: instead of one: a preset with random weights, such as transformer-base or t5-small.
        lora: train an adapter of this rank beside the frozen model (--set adapter.targets, .alpha, .ranks, .dora, .frozen).
        source_column: the column of the sources, or the ending of their file; guessed and said when not given.
        target_column: the column of the targets, or the ending of their file; guessed and said when not given.
        tokenizer: with --arch: bytes, characters, a hub id, or a folder or file that holds one; wordpiece or unigram, trained
            with --vocab; by default a byte-level BPE is trained on both sides.
        vocab: the size of the tokenizer that is trained.
        label_smoothing: the share of each label that lies on all words alike.
        validation: the share of pairs held out.
        epochs: how often each pair is seen at most; training ends earlier when validation gets no better.
        time: instead of epochs: how long it may take, such as 30m.
        set: any field of the run, such as optimizer.rate=1e-3, schedule.warmup=400 or arch.depth=3; may be given several times.
        seed: of the split, the starting weights and the order of pairs.
        device: auto, cpu or cuda.
        dtype: of the matrix products; auto takes the faster one.
        threads: CPU threads; 0 leaves the number to torch.
        deterministic: the same bits twice, even where that is slower.
        track: who is told the numbers beside run/metrics.jsonl: tensorboard, wandb or trackio; may be given several times.
    """
    started = command_began()
    asked = asked_of(locals(), leave_out=("started", "out", "device", "threads", "track"))
    trackers = wanted(track)
    out, settings, seconds = Path(out), settings_of(set), seconds_of(time) if time else None
    if (from_ is None) == (arch is None):
        raise ValueError("say what to start from: either --from MODEL, or --arch PRESET for random weights, such as transformer-base")
    refuse_adapter_of_nothing(lora, from_)
    if from_ is not None and (tokenizer is not None or vocab is not None):
        raise ValueError("--from starts from a model with its own tokenizer: leave out --tokenizer and --vocab")
    begun = begun_run(out, asked)
    terminal.say(f"This machine: {look()}")
    preset = preset_of(arch) if arch is not None else None
    parent = open_worded(from_) if from_ is not None else None
    if preset is not None:
        refuse_one_stack(str(arch), preset.arch())
    if parent is not None:
        refuse_one_stack(parent.name, parent.arch)
    from fledge.data import parallel
    from fledge.train.plan import this_machine

    whole = parallel.read_parallel(str(data), source_column, target_column)
    for line in whole.said():
        terminal.say(f"  {line}")
    machine = begun.machine if begun is not None else this_machine(device, dtype, threads, deterministic, seed)
    training, held_out = parallel.split(whole, validation, seed)
    if preset is not None:
        parent = fresh(str(arch), preset, settings, tokenizer_for(training, out / "run" / "tokenizer", tokenizer, vocab), seed)
    assert parent is not None
    job = PairsJob(training, held_out, parent, from_ is None, label_smoothing, epochs, seconds, lora)
    return job.run(out, machine, settings, asked, started, trackers)


def refuse_one_stack(name: str, arch: Arch) -> None:
    """Raise `ValueError` for a shape that does not read one text and write another."""
    from fledge.train.run import named

    if len(arch.stacks) < 2:
        raise ValueError(
            f"{name} has {named(list(arch.stacks))}, but pairs need an encoder and a decoder: see transformer-base; "
            "a decoder learns to answer with fledge finetune instruct"
        )


def tokenizer_for(training: Parallel, folder: Path, name: str | None, vocab: int | None) -> Tokenizer:
    """The tokenizer of a model that starts anew, which ends each text; one that is trained on both sides is kept in `folder`."""
    from fledge.data.preparation import vocabulary_for
    from fledge.text import Tokenizer
    from fledge.verbs.preparation import chosen_tokenizer

    if (folder / TOKENIZER_CONFIG).is_file():
        return Tokenizer.load(folder)
    texts = [*training.sources, *training.targets]
    found = chosen_tokenizer(name, vocab)
    if not isinstance(found, Tokenizer):
        found = Tokenizer.learned(texts, found or vocabulary_for(sum(map(len, texts))))
    terminal.say(f"  a tokenizer of {found.size:,} tokens for both sides")
    found = framing_for(("encoder", "decoder"), found)
    found.save(folder)
    return found


def fresh(name: str, preset: Preset, settings: dict[str, str], tokenizer: Tokenizer, seed: int) -> Parent:
    """Random weights in the shape of a preset, for this tokenizer."""
    from fledge.model import Transformer, initialise

    made = replace(arch_of(preset, settings, tokenizer.size), start=tokenizer.end_of_text)
    return Parent(name, initialise(Transformer(made), seed), tokenizer, {})


@dataclass(frozen=True)
class PairsJob:
    """Pairs to learn from and held out, and the model that learns to write; `anew` when its weights are random."""

    training: Parallel
    held_out: Parallel
    parent: Parent
    anew: bool
    smoothing: float = 0.1
    epochs: int = 10
    seconds: float | None = None
    lora: int | None = None

    def run(
        self, out: Path, machine: Machine, settings: dict[str, str], asked: dict[str, Any], started: float, track: Sequence[str] = ()
    ) -> Paired:
        """Train, keep the best by held-out loss, and measure what it writes."""
        from fledge.data.batches import Pairs, first_tokens
        from fledge.train.loop import on_machine
        from fledge.train.objective import PredictTokens
        from fledge.train.parallel import ranks
        from fledge.train.training import train, validate

        tokenizer, training, held_out = self.parent.tokenizer, self.training, self.held_out
        begun = begun_run(out, asked)
        run = begun or self.planned(machine, settings)
        refuse_other_data(out, run, fingerprint([training.sources, training.targets]))
        model, start = trainee(self.parent.with_arch(run.arch).network, run, self.parent), run.arch.start or 0
        context, rows = run.batch.context, run.batch.rows
        batches = Pairs(training.sources, training.targets, tokenizer, start, context, rows, machine.seed, run.batch.accumulate)
        if batches.truncated:
            many = f"{batches.truncated:,} of {len(training.sources):,} pairs"
            terminal.say(f"  sides longer than {context} tokens lose their end, in {many} (--set batch.context=...)")
        objective, writing = PredictTokens(smoothing=run.data.smoothing), {**SEARCHING, "max_new_tokens": batches.longest_target}
        if begun is None and self.seconds is not None:
            with on_machine(machine):
                reserve = TIDYING * self.seconds + min(AFTER * self.seconds, self.rehearsed(model.to(machine.device)))
            run = within(self.seconds, reserve, started, run, model, objective, batches.batch_at)
        most = VALIDATION_TOKENS if self.seconds is None else min(VALIDATION_TOKENS, int(CHECKED * run.plan.steps * TOKENS))
        held_out_batches = Pairs(held_out.sources, held_out.targets, tokenizer, start, context, 2 * rows).in_order()
        checked = list(first_tokens(held_out_batches, most))
        data = {"pairs": len(training.sources), "held out": len(held_out.sources)}
        data |= {"source_column": training.source_column, "target_column": training.target_column}
        writer = writer_for(out, tokenizer, run, None if self.anew else self.parent, data=data, generation=writing)
        with watched("Pairs", out, run.plan.steps) as (bar, hooks):
            result = train(
                run, model, batches, objective, out, evaluate=lambda model: validate(model, objective, checked, machine),
                export=writer.export, after_step=hooks, asked=asked, started=started, track=track, say=bar.say,
            )  # fmt: skip
        ranks.only_first()
        ended, best = clock.monotonic(), writer.best(machine.device)
        left = None if self.seconds is None else (1 - TIDYING) * self.seconds - result.seconds - (clock.monotonic() - ended)
        with on_machine(machine):
            written = self.written(best, writing, left)
        scores = self.scores(written)
        if not scores:
            terminal.say("  BLEU and ROUGE need sacrebleu and rouge-score: pip install 'fledge[eval]', then fledge evaluate")
        facts = {score.measure: {**to_json(score.interval), "signature": score.signature} for score in scores}
        writer.save(best, {"validation": result.validation, **facts})
        examples = tuple(Written(*row) for row in zip(held_out.sources[:EXAMPLES], held_out.targets, written, strict=False))
        spent = result.seconds + clock.monotonic() - ended
        done = Paired(
            str(out), result.steps, result.tokens, spent, result.validation, len(training.sources), len(written), scores, examples
        )  # fmt: skip
        from fledge.verbs.pages import paired_page

        paired_page(done, out).write(out / "run" / "report.html")
        return done

    def planned(self, machine: Machine, settings: dict[str, str]) -> Run:
        """The run: about 4,096 tokens a step, as long as the model and 99.9 % of the sides need; from random weights with the warm-up
        and the fall of the 2017 Transformer."""
        from fledge.train.plan import finetuning_optimizer, optimizer_for
        from fledge.train.run import Batch, Data, InverseRoot, Plan, Run, Save, Stable

        reader = self.parent.tokenizer
        sides = [reader.encode_batch(list(self.training.sources)), reader.target.encode_batch(list(self.training.targets))]
        frame = len(reader.framed([])) + 1
        lengths = sorted(len(tokens) + frame for side in sides for tokens in side)
        context = min(self.parent.arch.context, max(8, lengths[int(0.999 * (len(lengths) - 1))]))
        pairs = len(self.training.sources)
        rows = int(settings.get("batch.rows", max(1, min(256, pairs, round(TOKENS / (2 * sum(lengths) / len(lengths)))))))
        per_epoch = max(1, round(pairs / (rows * int(settings.get("batch.accumulate", 1)))))
        steps = self.epochs * per_epoch
        optimizer = optimizer_for(self.parent.arch) if self.anew else finetuning_optimizer(self.parent.optimizer)
        schedule = InverseRoot(min(4000, max(1, steps // 10))) if self.anew else Stable(min(50, per_epoch), 0.5)
        data = Data((), fingerprint([self.training.sources, self.training.targets]), "pairs", smoothing=self.smoothing)
        run = Run(
            self.parent.arch, data, Batch(rows, 1, context), optimizer,
            schedule, Plan(steps), Save(evaluate=max(1, per_epoch // 2) if self.seconds is None else 0, patience=6), machine,
        )  # fmt: skip
        return applied(adapting(run, self.lora, self.parent), settings)

    def rehearsed(self, model: Transformer) -> float:
        """About how many seconds it takes to write all the held-out targets that are measured, by the first few tokens of some."""
        from fledge.verbs.model import Model

        rows, tokens = REHEARSED
        some = self.held_out.part(range(min(rows, len(self.held_out.sources))))
        began = clock.monotonic()
        written = Model(model, self.parent.tokenizer, {"generation": SEARCHING}).targets(some.sources, max_tokens=tokens)
        spent = clock.monotonic() - began
        longest = max(map(len, self.parent.tokenizer.target.encode_batch(list(some.targets))))
        self.scores(written)  # its libraries load before the training, not after
        return spent * longest / tokens * min(MEASURED, len(self.held_out.sources)) / len(some.sources)

    def written(self, model: Transformer, writing: dict[str, Any], seconds: float | None = None) -> list[str]:
        """What the model writes for the first held-out sources, for `MEASURED` of them or as many as `seconds` allow, at least a few."""
        from fledge.evaluation.generated import installed
        from fledge.verbs.model import Model

        writer = Model(model, self.parent.tokenizer, {"generation": writing})
        sources = self.held_out.sources[: MEASURED if installed() else EXAMPLES]
        if seconds is None:
            return writer.targets(sources)
        found: list[str] = []
        until, size = clock.monotonic() + seconds, EXAMPLES
        while size >= EXAMPLES and len(found) < len(sources):
            part, began = sources[len(found) : len(found) + size], clock.monotonic()
            found += writer.targets(part)
            now = clock.monotonic()
            size = int(len(part) * (until - now) / (2 * (now - began)))  # half of what fits, for the machine may become slower
        if len(found) < len(sources):
            terminal.say(f"  The time was enough to write {len(found)} of {len(sources)} held-out targets; fledge evaluate writes all.")
        return found

    def scores(self, written: Sequence[str]) -> tuple[TextScore, ...]:
        """How near the texts come to the first held-out targets; none where the libraries are missing."""
        from fledge.evaluation.generated import bleu, installed, rouge

        targets = self.held_out.targets[: len(written)]
        return (bleu(written, targets), *rouge(written, targets)) if installed() else ()
