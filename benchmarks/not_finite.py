"""NaN and infinities in a loss or one number of a gradient: nothing may change, and step and tensor be named."""

from campaign import campaign

from tests.train.trials import Poisoning

if __name__ == "__main__":
    claim = (
        "200 losses or gradients that are not finite leave weights, optimiser and checkpoints bitwise unchanged; the "
        "run stops with step and tensor named, or skips by choice"
    )
    campaign("not_finite", claim, Poisoning, 204, __doc__)
