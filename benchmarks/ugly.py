"""Ugly files (invalid UTF-8, broken archives, links in a circle, ...): nothing crashes, and every item is accounted for exactly."""

from campaign import campaign

from tests.data.reading.ugly import Ugly

if __name__ == "__main__":
    claim = (
        "each of 5,000 ugly files is read without a crash, and gives exactly the texts and rejections (reason, line, bytes) "
        "that its maker knows"
    )
    campaign("ugly", claim, Ugly, 5000, __doc__)
