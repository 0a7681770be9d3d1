"""From scores to the next token: pure functions on scores (batch, vocabulary), in the order and with the meaning of transformers."""

import hashlib
import math
import struct
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn; temperature 0 takes the best one.

    `top_k` keeps the k best, `top_p` the fewest whose probabilities reach p, `min_p` those with at least p times the best
    one's probability; `repetition_penalty` makes tokens that are already there less likely. The same `seed` draws the same
    tokens again, whatever else is generated beside them; none draws anew each time.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    seed: int | None = None

    def __post_init__(self):
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
        if not (self.repetition_penalty > 0 and math.isfinite(self.repetition_penalty)):
            raise ValueError(
                f"repetition_penalty {self.repetition_penalty} is not above 0: 1 changes nothing, 1.2 makes repeats less likely"
            )
        if self.seed is not None and not 0 <= self.seed < 2**64:
            raise ValueError(f"seed {self.seed} is not a whole number from 0 to 2^64 - 1")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0


def choose(scores: Tensor, sampling: Sampling, seen: Tensor | None = None, uniforms: Tensor | None = None) -> Tensor:
    """The next token of each row, (batch,); `seen` as in `shape`, `uniforms` (batch,) in [0, 1) unless greedy."""
    scores = shape(scores, sampling, seen)
    if sampling.greedy or uniforms is None:
        return scores.argmax(-1)
    return draw(scores.softmax(-1), uniforms)


def shape(scores: Tensor, sampling: Sampling, seen: Tensor | None = None) -> Tensor:
    """Scores whose softmax is the distribution to draw from: penalty, temperature, top-k, top-p, min-p, in this order.

    `seen` (batch, vocabulary), true for tokens of the prompt and of what followed, is needed with a repetition penalty only.
    """
    if sampling.repetition_penalty != 1 and seen is not None:
        scores = penalise(scores, seen, sampling.repetition_penalty)
    if sampling.greedy:
        return scores
    scores = (scores - scores.amax(-1, keepdim=True)) / sampling.temperature  # at most 0, so that no temperature overflows
    if sampling.top_k is not None:
        scores = keep_top_k(scores, sampling.top_k)
    if sampling.top_p is not None:
        scores = keep_top_p(scores, sampling.top_p)
    if sampling.min_p is not None:
        scores = keep_min_p(scores, sampling.min_p)
    return scores


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
