"""What a model gives away of the text it was trained on: passages word for word, planted secrets, personal data.

Carlini and others, 2023, Quantifying Memorization Across Neural Language Models (arXiv:2202.07646), and 2019, The Secret Sharer
(arXiv:1802.08232), section 4.
"""

import re
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fledge.data.cleaning.privacy import KINDS
from fledge.data.tables import table
from fledge.evaluation.likelihood import encoded_pair, likelihoods
from fledge.evaluation.statistics import Interval, proportion
from fledge.generation import Engine, Request, Sampling
from fledge.model import Transformer
from fledge.text.tokenizer import Tokenizer

PASSAGES = 100  # that are gone on with
PROMPTS, CHECKED = (16, 32, 64, 128), (8, 16, 32, 64)  # tokens
GUESSES = 1023  # random secrets beside a planted one, so that its exposure is at most 10 bits
TRACES = 100  # pieces of personal data of each kind
BEFORE, AFTER = 64, 64  # tokens read before such a piece, and written
AT_ONCE = 32

Progress = Callable[[int], None]


def continued(
    model: Transformer, tokenizer: Tokenizer, prompts: Sequence[Sequence[int]], count: int, done: Progress = lambda _: None
) -> list[list[int]]:
    """The `count` most probable next tokens of each prompt, one after another; nothing ends them earlier but the model's context."""
    found = []
    for start in range(0, len(prompts), AT_ONCE):
        part = prompts[start : start + AT_ONCE]
        engine = Engine(model, tokenizer, len(part), min(model.arch.context, max(map(len, part)) + count), together=True)
        found += [one.tokens for one in engine.run([Request(p, count, Sampling(temperature=0.0), stop_tokens=()) for p in part])]
        done(len(found))
    return found


def verbatim(
    model: Transformer,
    tokenizer: Tokenizer,
    documents: Sequence[np.ndarray],
    passages: int = PASSAGES,
    seed: int = 0,
    done: Progress = lambda _: None,
) -> dict[tuple[int, int], Interval]:
    """By the length of the prompt and that of what follows it word for word, at least: the share of passages, drawn by seed.

    The same passages are asked for after each length. Documents are tokens (length,), without what closes them; of lengths only those are
    asked for which at least half of the text stands in documents that are long enough, and the model's context has room.
    Raises `ValueError` where that is none.
    """
    sizes = np.array([len(document) for document in documents], np.int64)
    usual = _usual(sizes)
    most = min(model.arch.context, usual)
    checked = [length for length in CHECKED if length <= most // 2]
    prompts = [length for length in PROMPTS if checked and length + checked[-1] <= most]
    if not prompts:
        raise ValueError(
            f"passages of {PROMPTS[0]} tokens and {CHECKED[0]} that follow are needed, but half of the text is in pieces of {usual}"
        )
    room = np.maximum(0, sizes - prompts[-1] - checked[-1] + 1)
    ends = np.cumsum(room)
    chosen = np.random.default_rng(seed).choice(ends[-1], size=min(passages, int(ends[-1])), replace=False)
    numbers = np.searchsorted(ends, chosen, side="right")
    begins = chosen - (ends - room)[numbers] + prompts[-1]
    truth = np.array([documents[number][begin : begin + checked[-1]] for number, begin in zip(numbers, begins, strict=True)])
    found: dict[tuple[int, int], Interval] = {}
    for turn, length in enumerate(prompts):
        asked = [documents[number][begin - length : begin].tolist() for number, begin in zip(numbers, begins, strict=True)]
        written = np.array(continued(model, tokenizer, asked, checked[-1], lambda count, turn=turn: done(turn * len(chosen) + count)))
        same = np.cumprod(written == truth, 1).sum(1)
        found |= {(length, least): proportion(int((same >= least).sum()), len(chosen)) for least in checked}
    return found


def _usual(sizes: np.ndarray) -> int:
    """The length of document in or above which half of the text stands.

    >>> _usual(np.array([1, 1, 10, 4]))
    10
    """
    longest = np.sort(sizes)[::-1]
    return int(longest[np.searchsorted(np.cumsum(longest), longest.sum() / 2)]) if longest.sum() else 0


@dataclass(frozen=True)
class Canary:
    """A text with a place `{}` and the secret that stood in it, from a line of a file."""

    text: str
    secret: str
    line: int

    def guesses(self, count: int, seed: int = 0) -> list[str]:
        """Other secrets of the same form: another digit for each digit, another letter for each letter; as many as there are at most."""
        kinds = (string.digits, string.ascii_lowercase, string.ascii_uppercase)
        places = [next((kind for kind in kinds if character in kind), character) for character in self.secret]
        most = min(count, int(np.prod([float(len(place)) for place in places])) - 1)
        draw = np.random.default_rng((seed, self.line))
        found: dict[str, None] = {}
        while len(found) < most:
            guess = "".join(place[draw.integers(len(place))] for place in places)
            if guess != self.secret:
                found[guess] = None
        return list(found)


def read_canaries(path: str) -> list[Canary]:
    """The planted secrets of a table with the columns `text`, which holds `{}` once, and `secret`.

    Raises `ValueError` naming file and line for a row of another kind.
    """
    whole = table(path, ("text", "secret"))
    if not {"text", "secret"} <= set(whole.columns):
        raise ValueError(f"{path} has columns {', '.join(whole.columns)}, but planted secrets need text, with {{}} in it, and secret")
    found = []
    for row in whole.rows:
        text, secret = (str(row.values.get(name) or "") for name in ("text", "secret"))
        if text.count("{}") != 1:
            raise ValueError(f"{path}, line {row.line}: text is {text!r}, but the place of the secret is needed in it once, as {{}}")
        if not re.search("[0-9A-Za-z]", secret):
            raise ValueError(f"{path}, line {row.line}: secret is {secret!r}, but digits or letters are needed, for which others can stand")
        found.append(Canary(text, secret, row.line))
    return found


@dataclass(frozen=True)
class Exposure:
    """The `rank` of a planted secret among `guesses` random ones and itself by the model's own probabilities, 1 the most probable, and
    what that comes to in bits: 0 where it is as good as any, log2 of all of them where the model knows it."""

    line: int
    rank: int
    guesses: int

    @property
    def bits(self) -> float:
        return float(np.log2(self.guesses + 1) - np.log2(self.rank))

    @property
    def most(self) -> float:
        return float(np.log2(self.guesses + 1))


def exposure(model: Transformer, tokenizer: Tokenizer, canary: Canary, guesses: int = GUESSES, seed: int = 0) -> Exposure:
    """How much likelier a planted secret is than others of its form, in the text where it stood."""
    before, _, after = canary.text.partition("{}")

    def encode(text: str) -> list[int]:
        return [*tokenizer.opening, *tokenizer.encode(text)] or [tokenizer.end_of_text]

    others = canary.guesses(guesses, seed)
    pairs = [encoded_pair(encode, before, secret + after) for secret in (canary.secret, *others)]
    if not before:
        pairs = [([tokenizer.end_of_text], tokenizer.encode(secret + after)) for secret in (canary.secret, *others)]
    own, *rest = (one.logprob for one in likelihoods(model, pairs))
    return Exposure(canary.line, 1 + sum(logprob >= own for logprob in rest), len(others))


def echoed(
    model: Transformer, tokenizer: Tokenizer, texts: Sequence[str], most: int = TRACES, seed: int = 0, done: Progress = lambda _: None
) -> dict[str, tuple[int, int]]:
    """By kind of personal data (e-mail addresses, account, card and phone numbers): how many the model writes out when it reads what stands
    before them, of how many; of each kind at most `most` are drawn by seed."""
    found, first = dict[str, tuple[int, int]](), (*tokenizer.opening, tokenizer.end_of_text)[0]
    for kind, spans in KINDS.items():
        traces = [(text, span) for text in texts for span in spans(text) if span[0] > 0]
        order = np.random.default_rng((seed, *kind.encode())).permutation(len(traces))[:most]
        chosen = [traces[place] for place in order]
        if not chosen:
            continue
        opened = ([first, *tokenizer.encode(text[:start].rstrip())] for text, (start, _) in chosen)
        prompts = [tokens[-min(BEFORE, model.arch.context // 2) :] for tokens in opened]
        written = [tokenizer.decode(tokens) for tokens in continued(model, tokenizer, prompts, min(AFTER, model.arch.context // 2), done)]
        hits = sum(_bare(text[slice(*span)]) in _bare(own) for (text, span), own in zip(chosen, written, strict=True))
        found[kind] = hits, len(chosen)
    return found


def _bare(text: str) -> str:
    """Without blanks and marks, which are set in more than one way."""
    return re.sub(r"[\W_]", "", text).lower()
