"""Processes killed inside a save, alone or on the thread beside training: no checkpoint that was committed may be lost."""

from campaign import campaign

from tests.train.trials import Saves

if __name__ == "__main__":
    claim = "1,000 kill -9 inside a save lose no committed checkpoint"
    campaign("saves", claim, Saves, 1000, __doc__)
