"""NaN and infinities in a loss or one number of a gradient, in one process or on the second of two ranks: nothing may change, and step
and tensor be named."""

from campaign import campaign

from tests.train.trials import Poisoning

if __name__ == "__main__":
    claim = (
        "200 losses or gradients that are not finite, half of them on rank 1 of 2, leave weights, optimiser and checkpoints of all ranks "
        "bitwise unchanged; the run stops with step and tensor named, or skips by choice"
    )
    campaign("not_finite", claim, Poisoning, 216, __doc__)
