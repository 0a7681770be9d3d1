"""A leap of the loss told from its noise, by the losses before it."""

import math
from collections.abc import Iterable
from statistics import median

from fledge.train.run import Guard

LEAST = 0.02  # standard deviation of the logarithm: where every step sees the same batch there is no noise to measure
MAD = 1.4826  # median absolute deviations that are one standard deviation of a normal distribution


class Spikes:
    """The last `window + hits` losses, and whether the last `hits` of them are a spike.

    A loss leaps when its logarithm lies more than `sigmas` standard deviations above the median of the window, a deviation being
    measured by the median too. Of logarithms, for the noise of a loss is of its size: one rule serves a loss of 8 nats and one of
    0.01. Of medians, for neither a few hard batches nor the beginning of the leap itself moves them. And `hits` in a row, for one
    hard batch is no damage: what a spike has done to the weights is seen in every batch that follows.
    """

    def __init__(self, guard: Guard, losses: Iterable[float] = ()):
        self.guard, self.losses = guard, list(losses)

    def sees(self, loss: float) -> bool:
        """Whether this loss, the next one, completes a spike."""
        window, hits = self.guard.window, self.guard.hits
        self.losses = [*self.losses, loss][-window - hits :]
        return len(self.losses) == window + hits and min(self.losses[window:]) > self.limit

    @property
    def usual(self) -> float:
        """The median of the window."""
        return median(self.losses[: self.guard.window])

    @property
    def limit(self) -> float:
        """The loss above which is a leap."""
        logarithms = [math.log(max(loss, 1e-12)) for loss in self.losses[: self.guard.window]]
        middle = median(logarithms)
        deviation = MAD * median(abs(value - middle) for value in logarithms)
        return math.exp(middle + self.guard.sigmas * max(LEAST, deviation))

    def forget(self) -> None:
        """Begin with no losses."""
        self.losses = []
