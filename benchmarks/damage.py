"""Checkpoints with flipped bits, cut, missing or swapped files: each must be found, and the newest good one used and named."""

from campaign import campaign

from tests.train.trials import Damage

if __name__ == "__main__":
    claim = (
        "each of 500 bit flips, truncations, swapped or missing files is detected at load, and the previous good "
        "checkpoint is used and named"
    )
    campaign("damage", claim, Damage, 504, __doc__)
