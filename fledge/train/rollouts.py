"""Answers that the model itself gives to questions, with what they are worth: batches for learning from a reward."""

import importlib.util
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path

import numpy as np

from fledge.data.batches import IGNORED, PADDING, Batch, Batches, draw, padded, rows_of
from fledge.data.instructions import of_row
from fledge.generation import Completion, Engine, Request, Sampling
from fledge.model import Transformer
from fledge.text import ChatFormat, Message, Template, Tokenizer
from fledge.train.loop import precision
from fledge.train.run import Machine, Reward

SLOTS = 64  # answers that are written side by side
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
Worth = Callable[[str, str, str], float]  # of a question, its own answer and what the model says


@dataclass(frozen=True)
class Question:
    """Messages up to a user's, the answer that is known, and the number of their row."""

    messages: tuple[Message, ...]
    answer: str
    row: int

    @property
    def text(self) -> str:
        return self.messages[-1].content


@dataclass(frozen=True)
class Answered(Batch):
    """Rows of a question and an answer that the model gave; `reward` and `advantage`, both (rows,), are what it is worth."""

    reward: np.ndarray | None = None
    advantage: np.ndarray | None = None


class Rollouts(Batches):
    """`samples` answers to each of `rows` questions a micro-batch, by the model as it is when the step comes.

    Which questions come, and the random numbers of each answer, depend on the seed, the step and the place alone. Questions that fill the
    model's context are left out, `left_out` of them. Raises `ValueError` naming the row that the format cannot write.
    """

    def __init__(
        self, model: Transformer, tokenizer: Tokenizer, form: ChatFormat | Template, questions: Sequence[Question], worth: Worth,
        goal: Reward, machine: Machine, rows: int, accumulate: int = 1,
    ):  # fmt: skip
        prompts = []
        for question in questions:
            with of_row(question.row):
                prompts.append(form.encode(tokenizer, list(question.messages), answer=True).tokens)
        kept = [number for number, prompt in enumerate(prompts) if len(prompt) < model.arch.context]
        if not kept:
            raise ValueError(
                f"each of {len(questions)} questions fills this model's context of {model.arch.context} tokens: use shorter ones"
            )
        super().__init__(len(kept), rows, machine.seed, accumulate)
        self.model, self.tokenizer, self.form, self.worth, self.goal, self.machine = model, tokenizer, form, worth, goal, machine
        self.questions, self.prompts = [questions[number] for number in kept], [prompts[number] for number in kept]
        self.left_out = len(questions) - len(kept)
        self.end = form.stop_tokens(tokenizer)[0]

    def batch_at(self, step: int, place: int = 0, places: int = 1) -> list[Batch]:
        """Raises `ValueError` for several processes, whose models cannot write each by itself."""
        if places > 1:
            raise ValueError("answers are written by one process: start fledge finetune reward without torchrun")
        found = [number for _, number in self.places(rows_of(step, self.batch * self.accumulate))]
        asked = [number for number in found for _ in range(self.goal.samples)]
        seeds = [int(draw(self.seed, step, place, "answer").integers(2**63)) for place in range(len(asked))]
        written = self.written(self.model, asked, seeds)
        size = self.batch * self.goal.samples
        return [self.answered(asked[i : i + size], written[i : i + size]) for i in range(0, len(asked), size)]

    def written(self, model: Transformer, asked: Sequence[int], seeds: Sequence[int] | None) -> list[Completion]:
        """An answer to each of these questions; the most probable words where there are no seeds."""
        requests = [
            Request(
                self.prompts[number],
                self.goal.tokens,
                Sampling(temperature=self.goal.temperature if seeds else 0.0, seed=seeds[place] if seeds else 0),
                (self.end,),
                self.form.stop_strings,
            )
            for place, number in enumerate(asked)
        ]
        capacity = max(len(request.tokens) for request in requests) + self.goal.tokens
        with precision(self.machine):
            return Engine(model, self.tokenizer, min(SLOTS, len(requests)), capacity, together=True).run(requests)

    def answered(self, asked: Sequence[int], written: Sequence[Completion]) -> Answered:
        """Rows of questions and answers; an answer that stopped by itself is trained on its end too."""
        rewards = np.array([self.value(number, one.text) for number, one in zip(asked, written, strict=True)])
        told = [[*one.tokens, *([self.end] if one.reason == "stop" else [])] for one in written]
        rows = [np.array([*self.prompts[number], *answer], np.int64) for number, answer in zip(asked, told, strict=True)]
        tokens, positions, document = padded([row[:-1] for row in rows], self.tokenizer.pad)
        labels, _, _ = padded([row[1:] for row in rows], IGNORED)
        starts = np.array([len(self.prompts[number]) - 1 for number in asked])
        labels = np.where((np.arange(labels.shape[1]) < starts[:, None]) | (document == PADDING), IGNORED, labels)
        return Answered(tokens, labels, positions, document, reward=rewards, advantage=advantages(rewards, self.goal))

    def value(self, number: int, text: str) -> float:
        """What an answer is worth. Raises `ValueError` where the reward fails or is no number."""
        question = self.questions[number]
        try:
            worth = self.worth(question.text, question.answer, text)
        except Exception as error:
            raise ValueError(
                f"the reward of {text!r} fails with {type(error).__name__}: {error}; its function is given the question, the known answer "
                "and what is said"
            ) from error
        if not isinstance(worth, Real | np.bool_) or not math.isfinite(worth):
            raise ValueError(f"the reward of {text!r} is {worth!r}, but a finite number is needed")
        return float(worth)

    def measured(self, model: Transformer) -> np.ndarray:
        """The reward of the model's most probable answer to each question."""
        asked = range(self.examples)
        return np.array([self.value(number, one.text) for number, one in zip(asked, self.written(model, asked, None), strict=True)])


def advantages(rewards: np.ndarray, goal: Reward) -> np.ndarray:
    """How far each reward lies above the mean of its question's, divided by their deviation where that is asked for.

    Shao et al., 2024, arXiv:2402.03300, section 4.1.2; where all answers are worth the same there is nothing to learn.
    """
    groups = rewards.reshape(-1, goal.samples)
    above = groups - groups.mean(1, keepdims=True)
    return (above / (groups.std(1, keepdims=True) + 1e-6) if goal.scaled else above).reshape(-1)


def same_number(question: str, answer: str, said: str) -> float:
    """1 where the last number that is said is the last one of the known answer, else 0.

    >>> same_number("How many?", "6 + 1,000 = 1,006\\n#### 1006", "It is 1006.0.")
    1.0
    """
    told, known = (NUMBER.findall(text) for text in (said, answer))
    return float(bool(told and known) and float(told[-1].replace(",", "")) == float(known[-1].replace(",", "")))


def worth_named(name: str) -> tuple[Worth, bytes]:
    """A reward by its name: `answer`, or `FILE.py:FUNCTION` of a person's own; and what its code is.

    The function is given the question, the known answer and what the model says. Raises `ValueError` where there is no such function
    or its file fails.
    """
    if name == "answer":
        return same_number, b"answer"
    file, colon, function = name.rpartition(":")
    path = Path(file)
    if not colon or path.suffix != ".py":
        raise ValueError(f"--reward {name!r} is unknown: use answer, or FILE.py:FUNCTION")
    if not path.is_file():
        raise FileNotFoundError(f"{file} does not exist: --reward takes FILE.py:FUNCTION")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"--reward {name}: {file} fails with {type(error).__name__}: {error}") from error
    found = getattr(module, function, None)
    if not callable(found):
        raise ValueError(f"{file} has no function {function}: --reward takes FILE.py:FUNCTION")
    return found, path.read_bytes()
