"""`finetune distill`: a small model learns from a larger one what to answer, word by word."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fledge.train.run import Distillation
from fledge.train.tracking import wanted
from fledge.verbs import terminal
from fledge.verbs.finetune.adapting import Rank, refuse_adapter_of_nothing
from fledge.verbs.finetune.forgetting import lines
from fledge.verbs.finetune.instructing import Format, Instructed, InstructJob, Part, chosen_chat, parted
from fledge.verbs.machine import look
from fledge.verbs.model import Dtype
from fledge.verbs.pages import distilled_page
from fledge.verbs.session import (
    Column,
    Duration,
    Name,
    Parent,
    Place,
    PresetName,
    Settings,
    Trackers,
    arch_of,
    asked_of,
    begun_run,
    command_began,
    open_writer,
    preset_of,
    refuse_unknown,
    seconds_of,
    settings_of,
    together,
)

if TYPE_CHECKING:
    from fledge.evaluation.statistics import Interval
    from fledge.report import Page
    from fledge.train.objective import Objective
    from fledge.train.run import Run


@dataclass(frozen=True)
class Distilled(Instructed):
    """A small assistant's folder, with the `teacher`'s perplexity of the same held-out answers."""

    teacher: Interval

    def __str__(self) -> str:
        return lines(super().__str__(), f"the teacher's perplexity of held-out answers: {self.teacher}")


@together
def distill(
    data: Place,
    /,
    *,
    out: Place,
    teacher: Name,
    from_: Name | None = None,
    arch: PresetName | None = None,
    lora: Rank | None = None,
    format: Format | None = None,
    share: float = 0.9,
    temperature: float = 1.0,
    prompt_column: Column | None = None,
    answer_column: Column | None = None,
    validation: Part = 0.1,
    test: Part = 0.1,
    epochs: int = 3,
    time: Duration | None = None,
    set: Settings | None = None,
    seed: int = 0,
    device: str = "auto",
    dtype: Dtype = "auto",
    threads: int = 0,
    deterministic: bool = False,
    track: Trackers | None = None,
) -> Distilled:
    """Distil a larger model into a smaller one: at each word of the answers it learns the teacher's whole distribution.

    Args:
        data: a table of questions and answers, as for instruct.
        out: the small model's folder.
        teacher: the larger model.
        from_: the smaller model to start from, with the same tokenizer.
        arch: instead of one: a preset with random weights, for the teacher's tokenizer.
        lora: train an adapter of this rank beside the frozen model (--set adapter.targets, .alpha, .ranks, .dora, .frozen).
        format: how turns are written: chatml, llama3, alpaca or plain; by default as the teacher was taught.
        share: of the loss: the teacher's distribution; the rest is the words that stand there.
        temperature: of both distributions; more looks at what the teacher nearly said.
        prompt_column: the column of the questions, where the guess is wrong.
        answer_column: the column of the answers.
        validation: the share of conversations that training is checked on, or a file with them.
        test: the share of conversations that both are measured on at the end, or a file with them; 0 takes those of validation.
        epochs: how often each conversation is seen at most.
        time: instead of epochs: how long it may take, such as 5m.
        set: any field of the run, such as optimizer.rate=1e-4 or batch.context=512; may be given several times.
        seed: of the split, the starting weights and the order of conversations.
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
        raise ValueError("say what learns from the teacher: either --from MODEL, or --arch PRESET for random weights")
    refuse_adapter_of_nothing(lora, from_)
    if format is not None:
        refuse_unknown(format, Format, "--format")
    goal = Distillation(share, temperature)
    begun = begun_run(out, asked)
    terminal.say(f"This machine: {look()}")
    from fledge.train.plan import this_machine

    parts = parted(data, validation, test, prompt_column, answer_column, seed)
    machine = begun.machine if begun is not None else this_machine(device, dtype, threads, deterministic, seed)
    larger = open_writer(teacher)
    parent = open_writer(from_) if from_ is not None else fresh(str(arch), settings, larger, seed)
    if parent.tokenizer.fingerprint() != larger.tokenizer.fingerprint():
        raise ValueError(
            f"{parent.name} and its teacher {teacher} have different tokenizers, but word by word they must read the same words"
        )
    chat = format or chosen_chat(larger.facts, larger.tokenizer)
    more = {"teacher": {"name": str(teacher), "weights": larger.facts.get("weights")}}
    job = DistillJob(*parts, parent, chat, False, epochs, seconds, more, lora, larger, goal, from_ is None)
    done = job.run(out, machine, settings, asked, started, trackers)
    assert isinstance(done, Distilled)
    return done


def fresh(preset: str, settings: dict[str, str], teacher: Parent, seed: int) -> Parent:
    """Random weights in the shape of a preset, for the teacher's tokenizer."""
    from fledge.model import Transformer, initialise

    made = arch_of(preset_of(preset), settings, teacher.arch.vocabulary)
    return Parent(preset, initialise(Transformer(made), seed), teacher.tokenizer, {})


@dataclass(frozen=True)
class DistillJob(InstructJob):
    """Conversations, the model that learns to answer, and the one that it learns from; `anew` when its weights are random."""

    teacher: Parent | None = None
    goal: Distillation = Distillation()  # noqa: RUF009  (frozen)
    anew: bool = False

    @property
    def origin(self) -> Parent | None:
        return None if self.anew else self.parent

    def aimed(self, run: Run) -> Run:
        from fledge.train.plan import optimizer_for

        optimizer = optimizer_for(run.arch, run.batch.tokens) if self.anew else run.optimizer
        return replace(run, data=replace(run.data, objective="distill"), goal=self.goal, optimizer=optimizer)

    def beside(self, run: Run) -> Interval:
        """The teacher's."""
        assert self.teacher is not None
        return self.perplexity(self.teacher.network.to(run.machine.device), self.chat, run)

    def told(self, beside: Interval | None) -> Callable[..., Distilled]:
        assert beside is not None
        return partial(Distilled, teacher=beside)

    def page(self, done: Any, out: Path) -> Page:
        return distilled_page(done, self, out)

    def objective(self, run: Run) -> Objective:
        from fledge.train.objective import Distil

        assert self.teacher is not None
        assert isinstance(run.goal, Distillation)
        return Distil(run.goal, self.teacher.network.to(run.machine.device).requires_grad_(False))
