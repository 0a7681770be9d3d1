"""A test of one's own: questions with answers that are written or chosen, with and without examples before them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fledge.verbs import terminal
from fledge.verbs.model import AT_ONCE, Model
from fledge.verbs.scoring.judges import Judging, judge_scores
from fledge.verbs.scoring.results import Answered, Difference, Evaluated, Score, compared

if TYPE_CHECKING:
    from fledge.evaluation.items import Item, Items
    from fledge.evaluation.judging import Judge
    from fledge.evaluation.scorers import Scorer
    from fledge.evaluation.shots import Shots, Template
    from fledge.evaluation.statistics import Tally

LONGEST = 512  # tokens of an answer at most, where nobody says


@dataclass(frozen=True)
class Asked:
    """What is measured on a test, and how a question is put.

    `scorers` of written answers: exact match and F1 if none, of small letters where `lowercase`. Examples come from `shots_from`, else from
    the test itself. `seed` draws the known answers on which a judge is judged.
    """

    scorers: tuple[Scorer, ...]
    shots: tuple[Shots, ...]
    template: str | None = None
    shots_from: str | None = None
    max_tokens: int | None = None
    judge: Judge | None = None
    judging: Judging = "score"
    lowercase: bool = False
    seed: int = 0


def question_scores(names: Sequence[str], models: Sequence[Model], on: str, asked: Asked) -> Evaluated:
    """Every model answers every question with each number of examples."""
    from fledge.data.tables import counted
    from fledge.evaluation.items import read_items
    from fledge.evaluation.judging import rating
    from fledge.evaluation.scorers import named
    from fledge.evaluation.shots import Template

    test = read_items(on)
    terminal.say(f"  a test of {counted(len(test.items), 'item')} in columns {test.layout} (as text: --text-column NAME)")
    pool = test.items if asked.shots_from is None else read_items(asked.shots_from).items
    template = Template() if asked.template is None else Template(asked.template.replace("\\n", "\n"))
    if test.chosen and asked.judge is not None:
        raise ValueError(f"the answers to {on} are chosen, but a judge reads written ones: leave out --judge")
    if test.chosen and asked.scorers:
        raise ValueError(f"the answers to {on} are chosen, which gives an accuracy: leave out --score, --regex and --scorer")
    scorers = [
        *(asked.scorers or (named("exact", asked.lowercase), named("f1"))),
        *([rating(asked.judge)] if asked.judge is not None and asked.judging == "score" else []),
    ]
    speakers = [Speaker(name, model, template, asked.max_tokens) for name, model in zip(names, models, strict=True)]
    scores: list[Score] = []
    differences: list[Difference] = []
    answered: list[Answered] = []
    trust: list[Score] = []
    for shots in asked.shots:
        drawn = shots.drawn(test.items, pool)
        tallies: list[Sequence[Tally]] = []
        written: list[Sequence[str]] = []
        for speaker in speakers:
            answers, found = speaker.chosen(test, drawn) if test.chosen else speaker.scored(test, drawn, scorers)
            tallies.append(found)
            written.append(answers[0])
            scores += [Score.of(speaker.name, tally, shots) for tally in found]
            answered += each(speaker.name, test.items, answers, found, shots.count)
        differences += compared(names, tallies, shots.count)
        if asked.judge is not None and shots is asked.shots[0]:
            preferred, known = judge_scores(asked.judge, asked.judging, names, test.items, written, asked.seed)
            scores += preferred
            trust += known
    size = counted(len(test.items), "item")
    return Evaluated(test.path, size, tuple(scores), tuple(differences), tuple(trust), tuple(answered), notes=notes(speakers))


def notes(speakers: Sequence[Speaker]) -> tuple[str, ...]:
    """How questions were put to each model."""
    ways: dict[str, list[str]] = {}
    for speaker in speakers:
        ways.setdefault(speaker.way, []).append(speaker.name)
    if len(ways) == 1:
        return (f"Questions are put {next(iter(ways))}.",)
    return tuple(f"To {', '.join(names)} questions are put {way}." for way, names in ways.items())


def each(name: str, items: Sequence[Item], answers: Sequence[Sequence[str]], tallies: Sequence[Tally], shots: int) -> list[Answered]:
    """What was answered to each item in each trial, with its value by every measure."""
    import numpy as np

    values = {tally.name: tally.items for tally in tallies}
    return [
        Answered(
            name, item.line, answers[trial][number],
            {measure: None if np.isnan(found[trial, number]) else float(found[trial, number]) for measure, found in values.items()},
            shots, trial,
        )
        for trial in range(len(answers))
        for number, item in enumerate(items)
    ]  # fmt: skip


@dataclass(frozen=True)
class Speaker:
    """A model that is asked: as it converses, if it was trained to, else in plain text by the template."""

    name: str
    model: Model
    template: Template
    max_tokens: int | None = None

    @property
    def way(self) -> str:
        form = self.model.chat_format
        return f"as {self.template.text!r}" if form is None else f"in the chat format {form.name}"

    def prompt(self, item: Item, shots: Sequence[Item]) -> list[int]:
        """What is read before the answer is written."""
        from fledge.evaluation.shots import conversation

        if (form := self.model.chat_format) is not None:
            return form.encode(self.model.tokenizer, conversation(item, shots), answer=True).tokens
        return self._read(self.template.prompt(item, shots))

    def pairs(self, item: Item, shots: Sequence[Item]) -> list[tuple[list[int], list[int]]]:
        """What is read before each choice, and the choice."""
        from fledge.evaluation.likelihood import encoded_pair

        tokenizer = self.model.tokenizer
        if self.model.chat_format is not None:
            before = self.prompt(item, shots)
            return [(before, tokenizer.encode(choice.strip())) for choice in item.choices]
        prompt, gap = self.template.prompt(item, shots), self.template.gap
        pairs = [encoded_pair(tokenizer.encode, prompt, gap + choice.strip()) for choice in item.choices]
        return [(self._opened(context), choice) for context, choice in pairs]

    def _read(self, text: str) -> list[int]:
        return self._opened(self.model.tokenizer.encode(text))

    def _opened(self, tokens: list[int]) -> list[int]:
        return [*self.model.tokenizer.opening, *tokens] or [self.model.tokenizer.end_of_text]

    def scored(
        self, test: Items, drawn: Sequence[Sequence[Sequence[Item]]], scorers: Sequence[Scorer]
    ) -> tuple[list[list[str]], list[Tally]]:
        """The answers that are written (trials, items), and what the scorers count on them."""
        written = self.written(test, drawn)
        return written, [tally for scorer in scorers for tally in scorer.tallies(written, test.items)]

    def written(self, test: Items, drawn: Sequence[Sequence[Sequence[Item]]]) -> list[list[str]]:
        """The answer to each item in each trial: the best word each time, for as long as twice the longest accepted answer."""
        prompts = [self.prompt(item, shots) for trial in drawn for item, shots in zip(test.items, trial, strict=True)]
        for number, prompt in enumerate(prompts):
            self._fits(test, test.items[number % len(test.items)], len(drawn[0][0]), len(prompt))
        most = self.max_tokens or self._longest(test)
        order = sorted(range(len(prompts)), key=lambda number: -len(prompts[number]))  # those of like length end at about the same time
        found: dict[int, str] = {}
        stop = [] if self.model.chat_format is not None else [self.template.stop]
        with terminal.bar("Answers", len(prompts)) as bar:
            for start in range(0, len(order), AT_ONCE):
                part = order[start : start + AT_ONCE]
                completions = self.model.continued([prompts[number] for number in part], max_tokens=most, temperature=0.0, stop=stop)
                found.update(zip(part, (completion.text.strip() for completion in completions), strict=True))
                bar.to(len(found), self.name)
        texts = [found[number] for number in range(len(prompts))]
        return [texts[start : start + len(test.items)] for start in range(0, len(texts), len(test.items))]

    def _longest(self, test: Items) -> int:
        answers = self.model.tokenizer.encode_batch([answer for item in test.items for answer in item.answers])
        return min(LONGEST, max(16, 2 * max(map(len, answers))))

    def _fits(self, test: Items, item: Item, shots: int, tokens: int) -> None:
        if tokens >= self.model.arch.context:
            examples = f" with {shots} examples" if shots else ""
            raise ValueError(
                f"{test.path}, line {item.line}: the question{examples} has {tokens:,} tokens, but {self.name} reads "
                f"{self.model.arch.context:,}: use fewer --shots, or leave this row out"
            )

    def chosen(self, test: Items, drawn: Sequence[Sequence[Sequence[Item]]]) -> tuple[list[list[str]], list[Tally]]:
        """The choice that is most probable (trials, items), and how often it is the right one: by the sum over its tokens, and by that
        sum for each character, as longer choices are less probable."""
        import numpy as np

        from fledge.evaluation.likelihood import likelihoods
        from fledge.evaluation.statistics import Tally

        pairs = [
            pair for trial in drawn for item, shots in zip(test.items, trial, strict=True) for pair in self._choices(test, item, shots)
        ]
        with terminal.bar("Choices", len(pairs)) as bar:
            found = likelihoods(self.model.network, pairs, done=lambda count: bar.to(count, self.name))
        logprobs = iter([one.logprob for one in found])
        picked: list[list[tuple[int, int]]] = []
        for _ in drawn:
            sums = [np.array([next(logprobs) for _ in item.choices]) for item in test.items]
            picked.append(
                [
                    (int(own.argmax()), int((own / [len(choice) for choice in item.choices]).argmax()))
                    for own, item in zip(sums, test.items, strict=True)
                ]
            )
        right = np.array([item.right for item in test.items])
        hits = np.array(picked) == right[None, :, None]  # (trials, items, 2)
        ones = np.ones_like(hits[..., :1])
        tallies = [
            Tally(name, np.concatenate([hits[..., way : way + 1], ones], -1).astype(np.float64))
            for way, name in enumerate(("accuracy", "accuracy by length"))
        ]
        return [[item.choices[first] for item, (first, _) in zip(test.items, trial, strict=True)] for trial in picked], tallies

    def _choices(self, test: Items, item: Item, shots: Sequence[Item]) -> list[tuple[list[int], list[int]]]:
        pairs = self.pairs(item, shots)
        self._fits(test, item, len(shots), max(len(context) + len(choice) - 1 for context, choice in pairs))
        return pairs


def shots_of(text: str, sets: int, orders: int, seed: int) -> tuple[Shots, ...]:
    """`0,1,5` as numbers of examples; raises `ValueError` for what is no list of numbers."""
    from fledge.evaluation.shots import Shots

    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"--shots {text!r} is no list of numbers such as 0,1,5") from None
    return tuple(Shots(count, sets, orders, seed) for count in dict.fromkeys(counts))


def scorers_of(names: str | None, regex: str | None, python: str | None, lowercase: bool) -> tuple[Scorer, ...]:
    """The scorers by their names, and those of a pattern and of a file."""
    from fledge.evaluation.scorers import from_python, matching, named

    chosen = [named(name, lowercase) for name in names.split(",")] if names else []
    make: list[tuple[Callable[[str], Scorer], str | None]] = [(matching, regex), (from_python, python)]
    chosen += [made(given) for made, given in make if given is not None]
    return tuple(chosen)
