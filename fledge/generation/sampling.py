"""From scores to the next token: pure functions on scores (batch, vocabulary), in the order and with the meaning of transformers."""

import hashlib
import math
import struct
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

NOTHING = -1  # the token where none is allowed


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn; temperature 0 takes the best one.

    `top_k` keeps the k best, `top_p` the fewest whose probabilities reach p, `min_p` those with at least p times the best
    one's probability, `typical_p` the fewest that reach p of those about as surprising as the model expects to be surprised.
    `repetition_penalty` makes tokens that are already there less likely; of what was generated `presence_penalty` is taken off the score
    of each token that is there, `frequency_penalty` as often as it is (OpenAI's definition). `logit_bias`, a mapping of ids that is kept
    as sorted pairs, is added to scores, and `banned` ids are never drawn. The same `seed` draws the same tokens again, whatever else is
    generated beside them; none draws anew each time.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    seed: int | None = None
    typical_p: float | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] | tuple[tuple[int, float], ...] = ()
    banned: Collection[int] = frozenset()  # kept as one

    def __post_init__(self):
        object.__setattr__(self, "logit_bias", tuple(sorted(dict(self.logit_bias).items())))
        object.__setattr__(self, "banned", frozenset(self.banned))
        if not (self.temperature >= 0 and math.isfinite(self.temperature)):
            raise ValueError(
                f"temperature {self.temperature} is not a number from 0 on: use 0 for the best token, 1 for the model's own odds"
            )
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k {self.top_k} keeps no token: use at least 1, or leave it out")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p {self.top_p} is not in (0, 1]: 0.9 keeps nine tenths of the probability")
        if self.min_p is not None and not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p {self.min_p} is not in [0, 1]: 0.1 keeps tokens at least a tenth as likely as the best one")
        if self.typical_p is not None and not 0 < self.typical_p <= 1:
            raise ValueError(f"typical_p {self.typical_p} is not in (0, 1]: 0.9 keeps nine tenths of the probability")
        if not (self.repetition_penalty > 0 and math.isfinite(self.repetition_penalty)):
            raise ValueError(
                f"repetition_penalty {self.repetition_penalty} is not above 0: 1 changes nothing, 1.2 makes repeats less likely"
            )
        for name in ("presence_penalty", "frequency_penalty"):
            if not -2 <= getattr(self, name) <= 2:
                raise ValueError(f"{name} {getattr(self, name)} is not in [-2, 2]: 0 changes nothing, 0.5 makes repeats less likely")
        for token, bias in dict(self.logit_bias).items():
            if not math.isfinite(bias):
                raise ValueError(f"logit_bias adds {bias} to token {token}, but a finite number is needed: banned rules a token out")
        if self.seed is not None and not 0 <= self.seed < 2**64:
            raise ValueError(f"seed {self.seed} is not a whole number from 0 to 2^64 - 1")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    @property
    def counts(self) -> bool:
        """Whether it matters how often each token was generated."""
        return bool(self.presence_penalty or self.frequency_penalty)

    @property
    def named(self) -> frozenset[int]:
        """The ids that it names."""
        return frozenset(self.banned).union(dict(self.logit_bias))


def choose(
    scores: Tensor, sampling: Sampling, seen: Tensor | None = None, made: Tensor | None = None, uniforms: Tensor | None = None
) -> Tensor:
    """The next token of each row, (batch,), NOTHING where all scores are minus infinity.

    `seen` and `made` as in `shape`, `uniforms` (batch,) in [0, 1) unless greedy.
    """
    scores = shape(scores, sampling, seen, made)
    chosen = scores.argmax(-1) if sampling.greedy or uniforms is None else draw(scores.softmax(-1), uniforms)
    return chosen.where(scores.amax(-1) > -math.inf, NOTHING)


def probabilities(scores: Tensor, sampling: Sampling, seen: Tensor | None = None, made: Tensor | None = None) -> Tensor:
    """The distribution that `choose` draws from, (batch, vocabulary): when greedy all of it is at the best token."""
    scores = shape(scores, sampling, seen, made)
    return torch.zeros_like(scores).scatter_(-1, scores.argmax(-1, keepdim=True), 1.0) if sampling.greedy else scores.softmax(-1)


def shape(scores: Tensor, sampling: Sampling, seen: Tensor | None = None, made: Tensor | None = None) -> Tensor:
    """Scores whose softmax is the distribution to draw from.

    In this order: bias, repetition penalty, presence and frequency penalties, banned tokens, temperature, top-k, top-p, min-p, typical-p.
    `seen` (batch, vocabulary), true for tokens of the prompt and of what followed, is needed with a repetition penalty only; `made`
    (batch, vocabulary), how often each was generated, with a presence or frequency penalty only.
    """
    if sampling.logit_bias:
        scores = biased(scores, dict(sampling.logit_bias))
    if sampling.repetition_penalty != 1 and seen is not None:
        scores = penalise(scores, seen, sampling.repetition_penalty)
    if sampling.counts and made is not None:
        scores = take_off(scores, made, sampling.presence_penalty, sampling.frequency_penalty)
    if sampling.banned:
        scores = ban(scores, sampling.banned)
    if sampling.greedy:
        return scores
    best = scores.amax(-1, keepdim=True).clamp(min=torch.finfo(scores.dtype).min)  # where no token is allowed, that stays so
    scores = (scores - best) / sampling.temperature  # at most 0, so that no temperature overflows
    if sampling.top_k is not None:
        scores = keep_top_k(scores, sampling.top_k)
    if sampling.top_p is not None:
        scores = keep_top_p(scores, sampling.top_p)
    if sampling.min_p is not None:
        scores = keep_min_p(scores, sampling.min_p)
    if sampling.typical_p is not None:
        scores = keep_typical(scores, sampling.typical_p)
    return scores


def biased(scores: Tensor, bias: Mapping[int, float]) -> Tensor:
    """Scores with the bias of each token added."""
    tokens = torch.tensor(list(bias), device=scores.device)
    return scores.index_add(-1, tokens, scores.new_tensor(list(bias.values())).expand(*scores.shape[:-1], -1))


def take_off(scores: Tensor, made: Tensor, presence: float, frequency: float) -> Tensor:
    """Scores less `presence` for each token that was generated and `frequency` for each time that it was (OpenAI's API reference)."""
    return scores - presence * (made > 0).to(scores) - frequency * made.to(scores)


def ban(scores: Tensor, tokens: Iterable[int]) -> Tensor:
    """Scores of these tokens at minus infinity."""
    return scores.index_fill(-1, torch.tensor(sorted(tokens), device=scores.device), -math.inf)


def penalise(scores: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Scores of seen tokens divided by the penalty where positive, multiplied where negative (arXiv:1909.05858, section 4.1)."""
    return torch.where(seen, torch.where(scores < 0, scores * penalty, scores / penalty), scores)


def keep_top_k(scores: Tensor, k: int) -> Tensor:
    """All but the k best (and what equals the last of them) at minus infinity (arXiv:1805.04833)."""
    least = scores.topk(min(k, scores.shape[-1])).values[:, -1:]
    return scores.masked_fill(scores < least, -math.inf)


def keep_top_p(scores: Tensor, p: float) -> Tensor:
    """All but the fewest best tokens whose probabilities sum to at least p at minus infinity (arXiv:1904.09751)."""
    ordered, order = scores.sort(-1)
    drop = ordered.softmax(-1).cumsum(-1) <= 1 - p
    drop[:, -1] = False
    return scores.masked_fill(drop.scatter(-1, order, drop), -math.inf)


def keep_min_p(scores: Tensor, p: float) -> Tensor:
    """Tokens less likely than p times the best one at minus infinity (arXiv:2407.01082)."""
    probabilities = scores.softmax(-1)
    return scores.masked_fill(probabilities < p * probabilities.amax(-1, keepdim=True), -math.inf)


def keep_typical(scores: Tensor, p: float) -> Tensor:
    """All but the fewest tokens that reach p, taken in the order of how far their surprise is from the entropy, at minus infinity
    (and what is as far as the last of them kept; locally typical sampling, arXiv:2202.00666)."""
    logs = scores.log_softmax(-1)
    surprise = (-logs).nan_to_num(posinf=0.0)
    far = (-logs - (logs.exp() * surprise).sum(-1, keepdim=True)).abs()
    nearest, order = far.sort(-1)
    reached = (scores.gather(-1, order).softmax(-1).cumsum(-1) < p).sum(-1, keepdim=True)
    return scores.masked_fill(far > nearest.gather(-1, reached.clamp(max=scores.shape[-1] - 1)), -math.inf)


def settle(probabilities: Tensor, guesses: Tensor, guessed: Tensor, keeping: Tensor, drawing: Tensor) -> Tensor:
    """The next token of each row, (batch,), where a draft has guessed one: the guess, or what the draft says too rarely.

    It has the distribution `probabilities` (batch, vocabulary) whatever that of the guesses (batch,) is, `guessed` (batch, vocabulary);
    `keeping` and `drawing` (batch,) are independent numbers in [0, 1) (Leviathan et al., 2023, arXiv:2211.17192, algorithm 1).
    """
    wanted, given = (part.gather(-1, guesses[:, None])[:, 0] for part in (probabilities, guessed))
    missed = (probabilities - guessed).clamp(min=0)
    missed = missed.where(missed.sum(-1, keepdim=True) > 0, probabilities)  # where the two differ by rounding alone
    return guesses.where(keeping.to(given) * given < wanted, draw(missed, drawing))


def draw(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """The token of each row, (batch,), at which the running sum of probabilities (batch, vocabulary) passes the uniform number."""
    if probabilities.device.type == "mps":  # which has no fp64
        return draw(probabilities.cpu(), uniforms.cpu()).to(probabilities.device)
    sums = probabilities.cumsum(-1, dtype=torch.float64)
    return torch.searchsorted(sums, uniforms.to(sums)[:, None] * sums[:, -1:], right=True)[:, 0]


def uniform(seed: int, index: int) -> float:
    """A number in [0, 1) for token `index` of a request, by counter: it depends on nothing else (BLAKE2b, RFC 7693, of the two)."""
    digest = hashlib.blake2b(struct.pack("<QQ", seed, index), digest_size=8).digest()  # 1 µs, where a new Philox takes 30
    return (int.from_bytes(digest, "little") >> 12) * 2.0**-52  # 52 bits: times any sum it stays below that sum in fp64
