"""Ugly files (invalid UTF-8, broken archives, links in a circle): nothing crashes, and what their makers know is accounted for."""

from campaign import campaign

from tests.data.reading.ugly import Ugly

if __name__ == "__main__":
    claim = (
        "each of 5,000 ugly files is read twice without a crash and alike, and gives exactly the texts and rejections (reason, line, "
        "and bytes where its maker knows them) that it must; of cut PDFs, noise and flipped bits only the first is asked"
    )
    campaign("ugly", claim, Ugly, 5000, __doc__)
