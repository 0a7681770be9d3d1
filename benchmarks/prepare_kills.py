"""Preparing killed at random points, with one, two and four workers: begun again it must end with the same bytes."""

from campaign import campaign

from tests.data.trials import Kills

if __name__ == "__main__":
    campaign("prepare_kills", "100 kill -9 at random points, with 1, 2 and 4 workers: the same SHA-256 of every file", Kills, 100, __doc__)
