"""Text that is spoilt so that a model learns to mend it: masked words, and spans to fill in. A new spoiling at each visit, by counter."""

from collections.abc import Sequence

import numpy as np

from fledge.data.batches import IGNORED, PADDING, Batch, Place, Stretches, draw, taught
from fledge.data.corpus import Shards
from fledge.text.tokenizer import Tokenizer

MASKED, RANDOM = 0.8, 0.1  # of the chosen tokens; the rest stay as they are (Devlin et al., 2018, arXiv:1810.04805, section 3.1)


class MaskedWords(Stretches):
    """Rows of `context` tokens, framed as the tokenizer does, of which some are hidden; these are the labels.

    Control tokens are never chosen. With `whole_words` all tokens of a word are chosen or none.
    """

    def __init__(
        self,
        shards: Shards,
        tokenizer: Tokenizer,
        context: int,
        batch: int,
        seed: int = 0,
        separate_documents: bool = False,
        accumulate: int = 1,
        share: float = 0.15,
        whole_words: bool = False,
        moving: bool = True,
    ):
        if tokenizer.mask is None:
            raise ValueError("this tokenizer has no mask token: name it as mask_token in tokenizer_config.json, or train one with fledge")
        super().__init__(shards, context - len(tokenizer.framed([])), batch, seed, accumulate, moving)
        self.tokenizer, self.context, self.separate_documents = tokenizer, context, separate_documents
        self.share, self.whole_words, self.mask = share, whole_words, tokenizer.mask
        self.control = np.isin(np.arange(tokenizer.size), list(tokenizer.controls.values()))
        self.words = np.flatnonzero(~self.control)

    def collated(self, places: Sequence[Place]) -> Batch:
        shape = (len(places), self.context)
        tokens, labels = np.full(shape, self.tokenizer.pad, np.int64), np.full(shape, IGNORED)
        positions, document = np.zeros(shape, np.int64), np.full(shape, PADDING)
        before, after = len(self.tokenizer.opening), len(self.tokenizer.closing)
        for row, (epoch, number) in enumerate(places):
            first, length = self.stretch(epoch, number)
            text = self.shards.window(first, length)
            chosen = self.chosen(text, draw(self.seed, -1 if epoch is None else epoch, number, "masked words"))
            spoilt = hidden(text, chosen, self.mask, self.words, draw(self.seed, -1 if epoch is None else epoch, number, "masks"))
            whole, real = slice(0, before + length + after), slice(before, before + length)
            tokens[row, whole] = self.tokenizer.framed(spoilt.tolist())
            labels[row, real] = np.where(chosen, text, IGNORED)
            place, part = self.document_of(first, length, self.separate_documents)
            place = place + np.where(part == 0, before, 0)
            positions[row, whole] = np.concatenate([np.arange(before), place, place[-1] + 1 + np.arange(after)])
            document[row, whole] = np.concatenate([np.zeros(before, np.int64), part, np.full(after, part[-1])])
        if not self.separate_documents and (document != PADDING).all():
            return Batch(tokens, labels)
        return Batch(tokens, labels, positions, document)

    def chosen(self, text: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Which tokens are to be guessed, (length,): `share` of those that are no control tokens, and at least one if there is any."""
        free = np.flatnonzero(~self.control[text])
        budget = max(1, round(self.share * len(free)))
        found = np.zeros(len(text), bool)
        if not self.whole_words:
            found[random.permutation(free)[:budget]] = True
            return found
        word = np.array(self.tokenizer.words(text.tolist()))
        sizes, left = np.bincount(word), budget
        for number in random.permutation(np.unique(word[free])):
            if sizes[number] <= left or left == budget:
                found |= word == number
                left -= sizes[number]
            if left <= 0:
                break
        return found


def hidden(text: np.ndarray, chosen: np.ndarray, mask: int, words: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """`text` with each chosen token as `mask` (80 %), as any of `words` (10 %), or as it was."""
    fate = random.random(len(text))
    other = random.choice(words, len(text))
    return np.where(chosen & (fate < MASKED), mask, np.where(chosen & (fate >= MASKED) & (fate < MASKED + RANDOM), other, text))


class Denoise(Stretches):
    """Rows of `context` tokens less one in which spans are replaced by sentinels, each with what it stands for as its target.

    Raffel et al., 2019, arXiv:1910.10683, section 3.1.4: `share` of the tokens are lost, in spans of `span` tokens on average.
    """

    def __init__(
        self, shards: Shards, tokenizer: Tokenizer, start: int, context: int, batch: int, seed: int = 0, accumulate: int = 1,
        share: float = 0.15, span: float = 3.0, moving: bool = True,
    ):  # fmt: skip
        super().__init__(shards, context - 1, batch, seed, accumulate, moving)
        self.tokenizer, self.start, self.context, self.share, self.span = tokenizer, start, context, share, span
        self.sentinels = np.array(tokenizer.sentinels)
        if not len(self.sentinels):
            raise ValueError("this tokenizer has no sentinels <extra_id_0>, <extra_id_1>, ...: take T5's, or train one with fledge")

    def collated(self, places: Sequence[Place]) -> Batch:
        sources, targets = [], []
        for epoch, row in places:
            first, length = self.stretch(epoch, row)
            text = self.shards.window(first, length)
            random = draw(self.seed, -1 if epoch is None else epoch, row, "spans")
            source, target = without_spans(text, spans(length, self.share, self.span, len(self.sentinels), random), self.sentinels)
            sources.append(np.array(self.tokenizer.framed(source.tolist()), np.int64))
            targets.append(np.array([*target, self.tokenizer.end_of_text], np.int64))
        return taught(sources, targets, self.start, self.tokenizer.pad, multiple=1)  # all rows but one are of one length


def spans(length: int, share: float, mean: float, most: int, random: np.random.Generator) -> np.ndarray:
    """Which tokens are lost, (length,): first some that stay, then by turns, both in pieces of random length (T5's published code)."""
    lost = min(max(round(length * share), 1), length - 1)
    count = min(max(round(lost / mean), 1), lost, length - lost, most)
    if count < 1:
        return np.zeros(length, bool)
    pieces = np.column_stack([pieces_of(length - lost, count, random), pieces_of(lost, count, random)])
    return np.repeat(np.tile([False, True], count), pieces.ravel())


def pieces_of(total: int, count: int, random: np.random.Generator) -> np.ndarray:
    """`count` whole numbers from 1 on that add up to `total`, all ways equally likely."""
    cuts = np.sort(random.permutation(total - 1)[: count - 1]) + 1
    return np.diff(np.concatenate([[0], cuts, [total]]))


def without_spans(text: np.ndarray, lost: np.ndarray, sentinels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The text with a sentinel for each span that is lost, and each sentinel followed by its span.

    >>> without_spans(array([5, 6, 7, 8, 9]), array([False, True, True, False, True]), array([90, 91]))
    (array([ 5, 90,  8, 91]), array([90,  6,  7, 91,  9]))
    """
    opens = lost & ~np.concatenate([[False], lost[:-1]])
    marks = sentinels[np.maximum(np.cumsum(opens) - 1, 0)]
    source = np.where(opens, marks, text)[~lost | opens]
    return source, np.insert(text[lost], np.flatnonzero(opens[lost]), marks[opens])
