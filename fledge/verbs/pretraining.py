"""`pretrain`: a model from unlabelled text, by predicting the next word, masked words, or lost spans."""

from __future__ import annotations

import math
import re
import time as clock
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from fledge.arch import Arch, parameter_count
from fledge.arch.record import did_you_mean, to_json, with_setting
from fledge.train.tracking import wanted
from fledge.verbs import terminal
from fledge.verbs.machine import look
from fledge.verbs.pages import pretrained_page
from fledge.verbs.preparation import NAMELESS, corpus_from
from fledge.verbs.session import (
    VALIDATION_TOKENS,
    Column,
    Duration,
    Every,
    Mix,
    ModelWriter,
    Name,
    Place,
    PresetName,
    Samples,
    Settings,
    Trackers,
    applied,
    arch_of,
    asked_of,
    begun_run,
    command_began,
    completing,
    framing_for,
    mending,
    open_worded,
    preset_of,
    refuse_other_data,
    seconds_of,
    settings_of,
    texts_of,
    together,
    watched,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np

    from fledge.data.batches import Batches
    from fledge.data.corpus import Corpus, Shards
    from fledge.model import Transformer
    from fledge.text import Tokenizer
    from fledge.train.run import Batch, Data, Machine, Run
    from fledge.verbs.session import Parent

DEFAULT_TIME = "10m"
Objective = Literal["next-word", "masked-word", "denoise"]
SMALLEST = {"next-word": "fledge-1m", "masked-word": "fledge-encoder-1m", "denoise": "fledge-both-2m"}  # presets in the default shapes
SAMPLE_EVERY = 20.0  # seconds
HIDEABLE = re.compile(r"( ?)\b[^\W\d_]{3,15}\b")  # words to show how gaps are filled in
WORTH = 4  # epochs that are nearly as good as new text: Muennighoff et al., 2023, arXiv:2305.16264
PROBE_SHARE = 0.02  # of the time
SCORED = 0.05  # of the time, at most, for scoring held-out text in the end
TIDYING = 0.025, 15.0  # of the time, and at most so many seconds, for saving and the report after that
FORWARD = 0.4  # of a training step: a forward pass alone, and the loss of each token
WRITING = {"do_sample": True, "temperature": 0.8, "top_p": 0.95}


@dataclass(frozen=True)
class Validation:
    """Held-out text: nats per token, bits per byte, and the 95 % bootstrap interval of the latter by document; and of each of several
    groups. `share` of its tokens were scored, where the time was not enough for all."""

    loss: float
    bits_per_byte: float
    interval: tuple[float, float]
    share: float = 1.0
    groups: dict[str, Validation] = field(default_factory=dict)

    def by_group(self) -> dict[str, str]:
        return {
            name: f"{group.bits_per_byte:.3f} ({group.interval[0]:.3f} to {group.interval[1]:.3f})" for name, group in self.groups.items()
        }


@dataclass(frozen=True)
class Guessed:
    """Held-out words that the model could not see: nats per word, the share that it guessed, with its 95 % bootstrap interval by row,
    and the share that always guessing the commonest one would hit; and of each of several groups. `share` of its rows were scored, where
    the time was not enough for all."""

    loss: float
    accuracy: float
    interval: tuple[float, float]
    commonest: float
    share: float = 1.0
    groups: dict[str, Guessed] = field(default_factory=dict)

    def by_group(self) -> dict[str, str]:
        return {name: f"{group.accuracy:.3f} ({group.interval[0]:.3f} to {group.interval[1]:.3f})" for name, group in self.groups.items()}


@dataclass(frozen=True)
class Expected:
    """What the plan foresaw, where it can."""

    bits_per_byte: float | None


@dataclass(frozen=True)
class Pretrained:
    """A pretrained model's folder, what it cost, how good it is, and how good it was expected to be."""

    out: str
    steps: int
    tokens: int
    seconds: float
    parameters: int
    validation: Validation | Guessed
    expected: Expected

    def __str__(self) -> str:
        low, high = self.validation.interval
        sure = f" (95 % interval {low:.3f} to {high:.3f})" if low < high else ""  # one document has no interval
        match self.validation:
            case Validation(bits_per_byte=bits):
                found = f"{bits:.3f} bits per byte on held-out text{sure}"
            case Guessed(accuracy=accuracy, commonest=commonest):
                found = f"guesses {accuracy:.3f} of the hidden words of held-out text{sure}, the commonest alone {commonest:.3f}"
        if self.validation.share < 1:
            found += f", of which the time was enough to score {self.validation.share:.0%} (fledge evaluate scores all)"
        found += "".join(f", {name or NAMELESS} {said}" for name, said in self.validation.by_group().items())
        return (
            f"{self.out}: {terminal.size(self.parameters)} parameters, {self.steps:,} steps, {terminal.size(self.tokens)} tokens, "
            f"{terminal.duration(self.seconds)}; {found}"
        )


@together
def pretrain(
    text: Sequence[str],
    /,
    *,
    out: Place,
    time: Duration | None = None,
    steps: int | None = None,
    tokens: int | None = None,
    arch: PresetName | None = None,
    objective: Objective | None = None,
    from_: Name | None = None,
    tokenizer: str | None = None,
    vocab: int | None = None,
    text_column: Column | None = None,
    mix: Mix | None = None,
    temperature: float | None = None,
    epochs_per_source: float | None = None,
    validation: float = 0.1,
    prompt: str | None = None,
    set: Settings | None = None,
    seed: int = 0,
    device: str = "auto",
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    threads: int = 0,
    deterministic: bool = False,
    track: Trackers | None = None,
) -> Pretrained:
    """Train a model on text by predicting the next word, or what is hidden of the text.

    The same command again goes on where it was stopped.

    Args:
        text: files, folders, globs, or corpora that `fledge prepare` made; name=PATH names a group of documents.
        out: the model's folder.
        time: how long everything may take, such as 30m or 2h; size, batch, rates and steps follow from it (10m when nothing is said).
        steps: instead of a time: that many steps.
        tokens: instead of a time: that many tokens.
        arch: a preset, such as gpt2 or fledge-7m; without it the plan chooses a size, or fledge-1m serves where it has no time to.
        objective: next-word raises a decoder (GPT), masked-word an encoder (BERT), denoise both (T5); by default what fits.
        from_: continue this model instead of starting from random weights.
        tokenizer: bytes, characters, gpt2, a hub id, or a folder or file that holds one; wordpiece or unigram, trained with --vocab;
            by default a byte-level BPE is trained on the text.
        vocab: the size of the tokenizer that is trained.
        text_column: the column that holds the text of tables.
        mix: the share of the tokens that each group makes up, such as general=0.7,domain=0.3; others are left out.
        temperature: instead: shares in proportion to the tokens of each group to this power, from 0 (equal) to 1 (as there are).
        epochs_per_source: read no group more often; what would be over comes from the others (about 4 are as good as new text).
        validation: the share of documents held out.
        prompt: what the model completes from time to time, so that one sees it learn, or fills in: "The ___ is blue."
        set: any field of the run, such as arch.depth=4, optimizer.rate=1e-3 or batch.rows=8; may be given several times.
        seed: of the split, the starting weights and the order of the text.
        device: auto, cpu or cuda.
        dtype: auto, float32 or bfloat16 (of the matrix products).
        threads: CPU threads; 0 leaves the number to torch.
        deterministic: the same bits twice, even where that is slower.
        track: who is told the numbers beside run/metrics.jsonl: tensorboard, wandb or trackio; may be given several times.
    """
    started = command_began()
    asked = asked_of(locals(), leave_out=("started", "out", "device", "threads", "track", "prompt"))
    trackers = wanted(track)
    out = Path(out)
    if sum(budget is not None for budget in (time, steps, tokens)) > 1:
        raise ValueError("--time, --steps and --tokens each say how long to train: give one of them")
    if arch is not None and from_ is not None:
        raise ValueError("--arch starts from random weights and --from continues a model: give one of them")
    if from_ is not None and (tokenizer is not None or vocab is not None):
        raise ValueError("--from continues a model with its own tokenizer: leave out --tokenizer and --vocab")
    refuse_bad_mixing(mix, temperature, epochs_per_source)
    settings = settings_of(set)
    budget = Budget(seconds_of(time or DEFAULT_TIME) if steps is None and tokens is None else None, steps, tokens)
    begun = begun_run(out, asked)
    terminal.say(f"This machine: {look()}")
    parent = open_worded(from_) if from_ is not None else None
    from fledge.train.plan import this_machine

    if arch is None and from_ is None and any(name.startswith("arch.") for name in settings):
        arch = SMALLEST[objective or "next-word"]
        terminal.say(f"  --set arch.* without --arch: of the preset {arch}")
    preset = preset_of(arch) if arch is not None else None
    shape = preset.arch() if preset is not None else parent.arch if parent is not None else None
    objective = fitting(objective, shape)
    machine = begun.machine if begun is not None else this_machine(device, dtype, threads, deterministic, seed, budget.seconds)
    named = str(from_) if from_ is not None else tokenizer
    own = out / "run" / "corpus"
    corpus = corpus_from(texts_of(text), own, vocab, named, text_column, validation, seed, "replace" if begun is None else "refuse")
    run = begun
    if run is not None:
        refuse_other_data(out, run, fingerprint(corpus))
    else:
        shares = wanted_shares(corpus, mix, temperature)
        given = parent.arch if parent is not None else None
        if preset is not None:
            given = started_by(arch_of(preset, settings, corpus.tokenizer.size), corpus.tokenizer)
        run = mixed(planned(corpus, budget, given, settings, machine, started, objective), corpus, shares, epochs_per_source)
    return raise_model(run, corpus, out, parent, asked, started, prompt, trackers)


def refuse_bad_mixing(mix: str | None, temperature: float | None, epochs_per_source: float | None) -> None:
    """Raise `ValueError` for what says twice how much to read of each group, or says to read nothing."""
    if mix is not None and temperature is not None:
        raise ValueError("--mix and --temperature each say how much to read of each group: give one of them")
    if epochs_per_source is not None and not epochs_per_source > 0:
        raise ValueError(f"--epochs-per-source {epochs_per_source:g} reads nothing: give for example 4")


def wanted_shares(corpus: Corpus, mix: str | None, temperature: float | None) -> dict[str, float]:
    """The share of each group of the corpus: as `mix` says, by temperature, or as the corpus has it; none where nothing says any.

    Raises `ValueError` for shares that the corpus cannot give.
    """
    from fledge.data.mixing import among, shares_of, tempered

    tokens = {name: group.train.tokens for name, group in corpus.groups.items()}
    if temperature is not None:
        return among(tempered(tokens, temperature), tokens)
    if mix is None and corpus.mix:
        terminal.say("  The corpus says in what shares to train on its groups; --mix changes them.")
    shares = shares_of(mix) if mix is not None else corpus.mix
    return among(shares, tokens) if shares else {}


def mixed(run: Run, corpus: Corpus, shares: Mapping[str, float], epochs: float | None) -> Run:
    """The run with these shares of groups, but none of them read more than so many `epochs`, saying what comes of it.

    Raises `ValueError` where all of the text would be read more often.
    """
    from fledge.data.mixing import tempered, within_epochs

    tokens = {name: group.train.tokens for name, group in corpus.groups.items()}
    total = run.plan.steps * run.batch.tokens
    wanted = dict(shares) or tempered(tokens, 1)
    found = wanted if epochs is None else within_epochs(wanted, tokens, total, epochs)
    read = {name: share * total / tokens[name] for name, share in found.items() if share}
    if epochs is not None:
        most = int(min(epochs * tokens[name] / (found[name] * run.batch.tokens) for name in read) + 1e-6)
        run = replace(run, plan=replace(run.plan, most=max(run.plan.steps, most)))
    if not shares:
        return run
    terminal.say(
        f"  Mixture: {'; '.join(f'{name or NAMELESS} {found[name]:.1%}, read {times:.2g} times' for name, times in read.items())}."
    )
    for name, share in found.items():
        if share < wanted[name] and epochs is not None:
            terminal.say(f"  {name} was to be {wanted[name]:.1%}, but has no more for {epochs:g} epochs: the others make up for it.")
        elif not share:
            terminal.say(f"  {name or NAMELESS} is left out of this mixture.")
        elif read[name] > WORTH and epochs is None:
            terminal.say(
                f"  {name} is read {read[name]:.1f} times: beyond {WORTH} new text is better; --epochs-per-source {WORTH} sees to that."
            )
    return replace(run, data=replace(run.data, mix=tuple((name, round(found[name], 6)) for name in read)))


@dataclass(frozen=True)
class Budget:
    """How long to train: one of wall seconds from the command's start to its end, steps, tokens."""

    seconds: float | None = None
    steps: int | None = None
    tokens: int | None = None


def fitting(objective: Objective | None, arch: Arch | None) -> Objective:
    """The objective that a model of this shape is for, or the given one if that fits it.

    Raises `ValueError` for one that does not.
    """
    from fledge.train.run import FAMILIES, named

    if objective is not None and objective not in get_args(Objective):
        raise ValueError(f"--objective {objective!r} is unknown{did_you_mean(objective, get_args(Objective))}")
    own: Objective = "next-word"
    if arch is not None:
        own = next(name for name in get_args(Objective) if FAMILIES[name] == tuple(arch.stacks))
    if objective is not None and arch is not None and objective != own:
        raise ValueError(
            f"--objective {objective} does not fit this model, which has {named(list(arch.stacks))}: leave it out, or say {own}"
        )
    return objective or own


def started_by(arch: Arch, tokenizer: Tokenizer) -> Arch:
    """Where there are an encoder and a decoder, a target is opened by the token that ends a text."""
    return arch if len(arch.stacks) < 2 else replace(arch, start=tokenizer.end_of_text)


def planned(
    corpus: Corpus, budget: Budget, arch: Arch | None, settings: dict[str, str], machine: Machine, started: float,
    objective: Objective = "next-word",
) -> Run:  # fmt: skip
    """The run for a budget: with a time, the size (unless `arch` is given), batch and steps that a probe of this machine finds best.

    Raises `ValueError` for text too short for one context, and for a time too short to learn anything.
    """
    from fledge.evaluation.difficulty import difficulty_of
    from fledge.train.plan import probe, propose
    from fledge.train.run import FAMILIES, Data, Masks, Run, Save, Spans

    noise = {"masked-word": Masks(), "denoise": Spans()}.get(objective)
    described = Data(sources=sources_of(corpus), fingerprint=fingerprint(corpus), objective=objective, noise=noise)
    batch = trial_batch(settings, arch, machine)
    if budget.seconds is None:
        run = fixed(corpus, budget, arch, batch, machine, described)
    else:
        terminal.say("Planning: trying a few sizes on this machine.")
        sample = None
        if objective != "next-word" and corpus.train.tokens > batch.context:
            tokenizer = framing_for(FAMILIES[objective], corpus.tokenizer)
            sample = stretches(corpus.train, tokenizer, described, batch.context, batch.rows, start=tokenizer.end_of_text).batch_at(0)[0]
        difficulty, seconds = difficulty_of(corpus), max(2.0, PROBE_SHARE * budget.seconds)
        speed = probe(machine, corpus.tokenizer.size, batch, seconds=seconds, objective=objective, sample=sample)
        spent = clock.monotonic() - started
        left = budget.seconds - spent - tidying(budget.seconds)
        if left <= 0:
            wanted = terminal.duration(spent + 60)
            raise ValueError(f"{terminal.duration(budget.seconds)} are over before the first step: give at least --time of {wanted}")
        chosen = batch if any(name.startswith("batch.") for name in settings) else None
        text = corpus.train.tokens, corpus.summary.bytes_per_token, corpus.tokenizer.size
        proposal = propose(left, *text, speed, difficulty, arch, chosen, objective)
        scoring = min(SCORED * budget.seconds, scoring_seconds(corpus.validation.tokens, proposal.tokens_per_second, objective))
        proposal = propose(left - scoring, *text, speed, difficulty, arch, chosen, objective)
        terminal.say(f"  {proposal.sentence()}")
        plan = replace(proposal.plan, seconds=budget.seconds, reserve=tidying(budget.seconds) + scoring)
        run = Run(proposal.arch, described, proposal.batch, proposal.optimizer, proposal.schedule, plan, Save(), machine)
    return applied(run, settings)


def tidying(seconds: float) -> float:
    """Of so many seconds those for saving and the report in the end."""
    share, most = TIDYING
    return min(share * seconds, most)


def scoring_seconds(held_out: int, tokens_per_second: float, objective: Objective) -> float:
    """About how long a model that trains at this speed takes to score so many held-out tokens: by one process, in windows of text that
    overlap by half (`score`)."""
    from fledge.train.parallel.ranks import ranks

    return ranks() * (2 if objective == "next-word" else 1) * FORWARD * held_out / tokens_per_second


def sources_of(corpus: Corpus) -> tuple[str, ...]:
    """What the corpus is opened by."""
    if len(corpus.folders) < 2:
        return (str(corpus.folder),)
    return tuple(f"{name}={folder}" for name, folder in corpus.folders.items())


def trial_batch(settings: dict[str, str], arch: Arch | None, machine: Machine) -> Batch:
    """The batch to try or to train with where nothing else decides: 4,096 tokens a step, 32,768 on a GPU, or as `--set batch.*` says."""
    from fledge.train.plan import CONTEXT
    from fledge.train.run import Batch

    batch = Batch(context=arch.context if arch else CONTEXT)
    for name, value in settings.items():
        if name.startswith("batch."):
            batch = with_setting(batch, name.removeprefix("batch."), value)
    tokens = 32_768 if machine.device.startswith("cuda") else 4096
    return batch if "batch.rows" in settings else replace(batch, rows=max(1, tokens // batch.context))


def fingerprint(corpus: Corpus) -> str:
    """The hash of the corpus's contents, as its shards have it."""
    return f"{corpus.contents['train']}:{corpus.contents['validation']}:{corpus.tokenizer.fingerprint()}"


def fixed(corpus: Corpus, budget: Budget, arch: Arch | None, batch: Batch, machine: Machine, described: Data) -> Run:
    """The run for a number of steps or tokens; without an `arch` in the smallest default shape."""
    from fledge.presets import PRESETS
    from fledge.train.plan import optimizer_for, worth_compiling
    from fledge.train.run import Plan, Run, Save, Stable

    preset = {"masked-word": SMALLEST["masked-word"], "denoise": SMALLEST["denoise"]}.get(described.objective, SMALLEST["next-word"])
    arch = arch or PRESETS[preset].arch(vocabulary=corpus.tokenizer.size)
    steps = budget.steps or max(1, (budget.tokens or 0) // batch.tokens)
    return Run(
        arch,
        described,
        batch,
        optimizer_for(arch, batch.tokens),
        Stable(min(100, max(1, steps // 20))),
        Plan(steps, tokens=budget.tokens),
        Save(),
        replace(machine, kernels=worth_compiling(machine, arch, batch, steps)),
    )


def raise_model(
    run: Run,
    corpus: Corpus,
    out: Path,
    parent: Parent | None,
    asked: dict[str, Any],
    started: float,
    prompt: str | None = None,
    track: Sequence[str] = (),
) -> Pretrained:
    """Train as `run` says, showing what the model writes as it learns; the folder `out` is the model from the first save on."""
    from fledge.data.batches import first_tokens, seed_of
    from fledge.data.mixing import Mixture
    from fledge.data.packing import Packed
    from fledge.model import Transformer, initialise, shell
    from fledge.train.loop import on_machine
    from fledge.train.objective import PredictTokens
    from fledge.train.parallel import ranks
    from fledge.train.training import train, validate
    from fledge.verbs.corpora import data_card

    context, rows = run.batch.context, run.batch.rows
    mix = dict(run.data.mix)
    texts = {name: corpus.groups[name].train for name in mix} or {"": corpus.train}
    for name, text in texts.items():
        if text.tokens <= context:
            raise ValueError(
                f"{name or 'the text'} has {text.tokens:,} tokens to train on, but one context of {context:,} needs {context + 1:,}: "
                f"give more text, or --set batch.context={max(1, (text.tokens - 1) // 2)}"
            )
    if parent is not None:
        model = parent.with_arch(run.arch).network
    else:
        model = shell(run.arch) if ranks.ranks() > 1 else initialise(Transformer(run.arch), run.machine.seed)
    tokenizer = parent.tokenizer if parent is not None else framing_for(tuple(run.arch.stacks), corpus.tokenizer)
    start, accumulate = run.arch.start or 0, run.batch.accumulate
    seeds = {name: seed_of(run.machine.seed, name) if mix else run.machine.seed for name in texts}
    parts = {name: stretches(text, tokenizer, run.data, context, rows, seeds[name], accumulate, start) for name, text in texts.items()}
    batches = Mixture(list(parts.values()), list(mix.values()), rows, accumulate) if mix else parts[""]
    packed = {name: str(part.packing) for name, part in parts.items() if isinstance(part, Packed)}
    for name, said in packed.items():
        terminal.say(f"  {name}{': ' if name else ''}{said}")
    checked = {
        name: stretches(group.validation, tokenizer, run.data, context, rows, start=start)
        for name, group in corpus.groups.items()
        if group.validation.tokens
    }
    whole = stretches(corpus.validation, tokenizer, run.data, context, rows, start=start)
    scored = checked if any(name in mix for name in checked) else {"": whole}
    held_out = {name: list(first_tokens(one.in_order(), VALIDATION_TOKENS // len(scored))) for name, one in scored.items()}
    objective, next_word = PredictTokens(smoothing=run.data.smoothing), run.data.objective == "next-word"
    reading = {**described_mix(run, corpus), **{f"packing {name}".strip(): said for name, said in packed.items()}}
    writer = ModelWriter(
        out, tokenizer, run, data={**to_json(corpus.summary), **reading}, parent=parent, generation=WRITING if next_word else None,
        about=data_card(corpus, reading),
    )  # fmt: skip

    def evaluate(model: Transformer) -> dict[str, float]:
        losses = {name: validate(model, objective, batches, run.machine)["loss"] for name, batches in held_out.items()}
        if len(scored) == 1:
            return {"loss": next(iter(losses.values()))}
        weights = {name: mix.get(name, 0.0) for name in losses}
        mean = sum(weights[name] * loss for name, loss in losses.items()) / sum(weights.values())
        return {"loss": mean, **{f"loss_of_{name or 'the_rest'}": loss for name, loss in losses.items()}}

    with watched("Pretraining", out, run.plan.steps) as (bar, hooks):
        samples = sampled(corpus, tokenizer, run, prompt, out / "run" / "samples.jsonl", bar.say) if ranks.ranks() == 1 else None
        shown = [Every(SAMPLE_EVERY, samples.show)] if samples is not None else []
        result = train(
            run, model, batches, objective, out, evaluate=evaluate, export=writer.export,
            after_step=[*hooks, *shown], bytes_per_token=corpus.summary.bytes_per_token if next_word else None,
            asked=asked, started=started, track=track, say=bar.say,
        )  # fmt: skip
    ranks.only_first()
    seconds = run.plan.seconds
    until = math.inf if seconds is None else clock.monotonic() + seconds - tidying(seconds) - result.seconds
    best = writer.best(run.machine.device)
    with on_machine(run.machine):
        validation = score(best, corpus, until) if next_word else guessed(best, checked or {"": whole}, until)
    writer.save(best, {"validation": to_json(validation)})
    expected = Expected(run.plan.expected)
    done = Pretrained(str(out), result.steps, result.tokens, result.seconds, parameter_count(run.arch), validation, expected)
    pretrained_page(done, out).write(out / "run" / "report.html")
    return done


def described_mix(run: Run, corpus: Corpus) -> dict[str, str]:
    """The mixture, for the model card."""
    if not run.data.mix:
        return {}
    known = [f"{name or NAMELESS} {share:.1%} ({corpus.groups[name].train.tokens:,} tokens there)" for name, share in run.data.mix]
    return {"mixture": ", ".join(known)}


def score(model: Transformer, corpus: Corpus, until: float = math.inf) -> Validation:
    """How well `model` predicts the corpus's whole held-out text, every token scored once; and that of each of several groups.

    When `until` comes on the clock of `time.monotonic`, what was scored is a random part of it.
    """
    import numpy as np

    from fledge.evaluation.documents import closed_documents
    from fledge.evaluation.language import document_costs, language_score

    end = corpus.tokenizer.end_of_text
    texts = {name: closed_documents(group.validation, end) for name, group in corpus.groups.items() if group.validation.documents}
    documents = [document for closed, _ in texts.values() for document in closed]
    sizes = np.concatenate([size for _, size in texts.values()])
    owners = np.repeat(np.array(list(texts)), [len(closed) for closed, _ in texts.values()])
    costs = document_costs(model, documents, sizes, start=end, stride=max(1, model.arch.context // 2), until=until)

    def validation(chosen: np.ndarray, groups: dict[str, Validation] | None = None) -> Validation:
        found = language_score(*(cost[chosen] for cost in costs))
        bits = found.bits_per_byte
        assert bits is not None
        share = found.tokens / sum(len(documents[number]) for number in np.flatnonzero(chosen))
        return Validation(found.nats_per_token.value, bits.value, (bits.low, bits.high), share, groups or {})

    scored = [name for name in texts if costs[1][owners == name].any()]
    groups = {name: validation(owners == name) for name in scored} if len(texts) > 1 else None
    return validation(np.ones(len(documents), bool), groups)


def guessed(model: Transformer, texts: Mapping[str, Batches], until: float = math.inf) -> Guessed:
    """How well `model` guesses what is hidden of held-out text; and of that of each of several groups.

    When `until` comes on the clock of `time.monotonic`, what was scored is a random part of it.
    """
    import numpy as np

    from fledge.evaluation.clock import in_time
    from fledge.evaluation.words import WordCosts, word_costs

    costs: dict[str, list[WordCosts]] = {name: [] for name in texts}
    places = [(name, first) for name, text in texts.items() for first in range(0, text.examples, text.batch)]
    for i in in_time(np.random.default_rng(0).permutation(len(places)), until):
        name, first = places[i]
        costs[name].append(word_costs(model, texts[name].rows(first, texts[name].batch)))

    def found(names: Sequence[str], groups: dict[str, Guessed] | None = None) -> Guessed:
        together = WordCosts.together([cost for name in names for cost in costs[name]])
        score = together.score()
        share = len(together.counts) / sum(texts[name].examples for name in names)
        return Guessed(
            score.nats.value, score.accuracy.value, (score.accuracy.low, score.accuracy.high), score.commonest, share, groups or {}
        )

    scored = [name for name in texts if any(cost.counts.any() for cost in costs[name])]
    return found(list(texts), {name: found([name]) for name in scored} if len(texts) > 1 else None)


def stretches(
    shards: Shards, tokenizer: Tokenizer, data: Data, context: int, rows: int, seed: int = 0, accumulate: int = 1, start: int = 0
) -> Batches:
    """The batches that an objective makes of a text."""
    from fledge.data.batches import Windows
    from fledge.data.noise import Denoise, MaskedWords
    from fledge.data.packing import Packed
    from fledge.train.run import Masks, Spans

    match data.noise:
        case Masks(share, whole_words):
            return MaskedWords(shards, tokenizer, context, rows, seed, data.separate_documents, accumulate, share, whole_words, data.moving)
        case Spans(share, length):
            return Denoise(shards, tokenizer, start, context, rows, seed, accumulate, share, length, data.moving)
    if data.packing == "best-fit":
        return Packed(shards, context, rows, seed, accumulate, data.moving)
    return Windows(shards, context, rows, seed, data.separate_documents, accumulate, data.moving)


def sampled(corpus: Corpus, tokenizer: Tokenizer, run: Run, prompt: str | None, path: Path, say: Callable[[str], None]) -> Samples | None:
    """What the model is asked for from time to time: to go on from the prompt, or to fill in its gaps; by default of held-out text.

    None where that has no words to hide. Raises `ValueError` for a prompt without a gap where one is needed.
    """
    from fledge.generation import Gapped, marks_of

    if run.data.objective == "next-word":
        prompt = prompt or opening(corpus)
        return Samples(path, completing(tokenizer, prompt), say, prompt)
    if prompt is not None:
        marks = marks_of(tokenizer, spans=run.data.objective == "denoise")
        return Samples(path, mending(tokenizer, Gapped.marked(prompt, marks)), say, whole=prompt)
    tokens, _ = corpus.validation.document(0)
    text = " ".join(corpus.tokenizer.decode(tokens[: min(64, run.batch.context // 2)].tolist()).split()[:-1])
    words = list(HIDEABLE.finditer(text))
    if not words:
        return None
    words = words[2::5] or words[-1:]
    gapped = Gapped.without(text, words)
    whole = gapped.filled([word[0] for word in words])
    say(f"  held-out text, the words in ⟦ ⟧ to be filled in: {whole}")
    return Samples(path, mending(tokenizer, gapped), say, whole=whole)


def opening(corpus: Corpus) -> str:
    """The first words of the first held-out document."""
    tokens, _ = corpus.validation.document(0)
    text = corpus.tokenizer.decode(tokens[:64].tolist())
    return " ".join(text.split()[:6]) or text[:20]
