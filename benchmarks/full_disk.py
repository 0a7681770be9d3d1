"""Disks that are full at some level of a save: the older checkpoint must stay, and the bytes needed be said."""

from campaign import campaign

from tests.train.trials import FullDisk

if __name__ == "__main__":
    claim = "50 fill levels of a small disk or of ulimit -f leave the older checkpoint intact and say how many bytes were needed"
    campaign("full_disk", claim, FullDisk, 50, __doc__)
