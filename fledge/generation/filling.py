"""Gaps in a text, filled in by a model that learned to mend: single words by an encoder, spans by an encoder beside a decoder."""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch

from fledge.generation.engine import Engine, Request, inference
from fledge.generation.sampling import Sampling
from fledge.model import Transformer
from fledge.text.tokenizer import Tokenizer

SHOWN = 5  # words for a mask
SPAN_TOKENS = 20  # in a gap at most
AT_ONCE = 32  # texts side by side
GREEDY = Sampling(temperature=0.0)


@dataclass(frozen=True)
class Gapped:
    """A text with gaps: what stands around them, one piece more than there are gaps; the blank before a gap, if any, is a part of it."""

    pieces: tuple[str, ...]
    blanks: tuple[str, ...]

    @classmethod
    def marked(cls, text: str, names: Iterable[str] = ()) -> "Gapped":
        """A text in which gaps are written `[MASK]`, as one of `names`, or as `___` that is no part of a word.

        Raises `ValueError` for a text without a gap.
        """
        marks = "|".join(map(re.escape, ("[MASK]", *names)))
        found = list(re.finditer(rf"( ?)(?:{marks}|(?<!\w)_{{3,}}(?!\w))", text))
        if not found:
            raise ValueError(f"{text[:60]!r} marks nothing to fill in: write ___ or [MASK] for it, as in 'The sky is ___.'")
        return cls.without(text, found)

    @classmethod
    def without(cls, text: str, gaps: Sequence[re.Match]) -> "Gapped":
        """The text less what matched; the first group of each match is the blank before it."""
        edges = [0, *(edge for gap in gaps for edge in gap.span()), len(text)]
        return cls(tuple(text[a:b] for a, b in zip(edges[::2], edges[1::2], strict=True)), tuple(gap[1] for gap in gaps))

    def filled(self, fills: Sequence[str]) -> str:
        """The text with what fills each gap between ⟦ and ⟧.

        >>> Gapped(("The", " is", "."), (" ", " ")).filled(["sky", "blue"])
        'The ⟦sky⟧ is ⟦blue⟧.'
        """
        parts = (f"{blank}⟦{fill.strip()}⟧{piece}" for blank, fill, piece in zip(self.blanks, fills, self.pieces[1:], strict=True))
        return self.pieces[0] + "".join(parts)


@dataclass(frozen=True)
class Filling:
    """A text with its gaps filled in, what fills each of them, and for each the most probable texts, best first."""

    text: str
    fills: list[str] = field(default_factory=list)
    chances: list[dict[str, float]] = field(default_factory=list)


def marks_of(tokenizer: Tokenizer, spans: bool) -> list[str]:
    """How gaps may be written beside `[MASK]` and `___`: as the tokenizer's mask, and where spans are filled in as its sentinels."""
    taken = {tokenizer.mask, *(tokenizer.sentinels if spans else ())}
    return [name for name, number in tokenizer.controls.items() if number in taken]


def fill(model: Transformer, tokenizer: Tokenizer, texts: Sequence[Gapped]) -> list[Filling]:
    """Each text with its gaps filled in: by an encoder with a word each, by one beside a decoder with a span each.

    Raises `ValueError` where the tokenizer has no mask or too few sentinels, and for a text longer than the context.
    """
    with inference(model):
        return list((_with_spans if len(model.arch.stacks) == 2 else _with_words)(model, tokenizer, texts))


def _around(model: Transformer, tokenizer: Tokenizer, text: Gapped, marks: Sequence[int]) -> list[int]:
    """The text as it is read, a control token in each gap."""
    tokens = tokenizer.encode(text.pieces[0])
    for mark, piece in zip(marks, text.pieces[1:], strict=True):
        tokens += [mark, *tokenizer.encode(piece)]
    tokens = tokenizer.framed(tokens)
    if len(tokens) > model.arch.context:
        raise ValueError(f"a text has {len(tokens):,} tokens, but this model takes {model.arch.context:,}: shorten {text.pieces[0][:40]!r}")
    return tokens


def _with_words(model: Transformer, tokenizer: Tokenizer, texts: Sequence[Gapped]) -> Iterator[Filling]:
    mask, device = tokenizer.mask, model.embedding.weight.device
    if mask is None:
        raise ValueError("this model's tokenizer has no mask token, so nothing can be filled in")
    if len(tokenizer.controls) == tokenizer.size:
        raise ValueError(f"all {tokenizer.size:,} tokens of this model's tokenizer are control tokens, so it has no word to fill in")
    controls = torch.tensor(sorted(tokenizer.controls.values()), device=device)
    for text in texts:
        whole = torch.tensor(_around(model, tokenizer, text, [mask] * len(text.blanks)), device=device)
        scores = model(whole[None])[0, whole == mask, : tokenizer.size].index_fill(-1, controls, -torch.inf)
        best = scores.double().softmax(-1).topk(min(SHOWN, scores.shape[-1]))
        chances = []
        for shares, words in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            found: dict[str, float] = {}
            for share, word in zip(shares, words, strict=True):  # a word with its blank and without it is one
                name = tokenizer.decode([word]).strip() or tokenizer.piece(word)
                found[name] = found.get(name, 0.0) + share
            chances.append(dict(sorted(found.items(), key=lambda item: -item[1])))
        whole[whole == mask] = best.indices[:, 0]
        yield Filling(tokenizer.decode(whole.tolist()), [tokenizer.decode([word]) for word in best.indices[:, 0].tolist()], chances)


def _with_spans(model: Transformer, tokenizer: Tokenizer, texts: Sequence[Gapped]) -> Iterator[Filling]:
    """As it was learned: a target that has each gap's sentinel before what was lost there; any sentinel ends a span."""
    sentinels, most = tokenizer.sentinels, max((len(text.blanks) for text in texts), default=0)
    if most > len(sentinels):
        raise ValueError(f"a text has {most} gaps, but this model's tokenizer has sentinels for {len(sentinels)}: fill in fewer at once")
    sources = [_around(model, tokenizer, text, sentinels[: len(text.blanks)]) for text in texts]
    stops = (tokenizer.end_of_text, *sentinels)
    room = min(model.arch.context, 1 + len(tokenizer.opening) + most * (1 + SPAN_TOKENS))
    engine = Engine(model, tokenizer, min(AT_ONCE, max(1, len(texts))), room, together=True)
    targets: list[list[int]] = [[] for _ in texts]
    spans: list[list[list[int]]] = [[[] for _ in text.blanks] for text in texts]
    logprobs = [[0.0] * len(text.blanks) for text in texts]
    for gap in range(most):
        asked = [number for number, text in enumerate(texts) if gap < len(text.blanks)]
        for number in asked:
            targets[number].append(sentinels[gap])
        for length, ends in ((1, ()), (SPAN_TOKENS - 1, stops)):  # no span is empty
            requests = [Request(sources[number], length, GREEDY, ends, begun=targets[number]) for number in asked]
            for number, done in zip(asked, engine.run(requests), strict=True):
                targets[number] += done.tokens
                spans[number][gap] += done.tokens
                logprobs[number][gap] += sum(done.logprobs)
    for text, found, sums in zip(texts, spans, logprobs, strict=True):
        tokens = tokenizer.encode(text.pieces[0])
        for span, piece in zip(found, text.pieces[1:], strict=True):
            tokens += [*span, *tokenizer.encode(piece)]
        fills = [tokenizer.decode(span) for span in found]
        yield Filling(tokenizer.decode(tokens), fills, [{name.strip(): math.exp(total)} for name, total in zip(fills, sums, strict=True)])
