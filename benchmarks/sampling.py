"""What is drawn follows the stated distribution: chi-square over hundreds of settings, each drawn from in three ways.

Each setting mixes temperature, top-k, top-p, min-p, typical-p, penalties, bias and bans at random; what it states is computed token by
token in Python's own numbers. Drawn are the tokens of one seed, the first tokens of many seeds, and tokens that a draft has guessed.
"""

import sys
import time
from pathlib import Path

from record import arguments, write

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.generation.test_sampling import off

if __name__ == "__main__":
    options = arguments(__doc__, settings=300, draws=20_000, first=1000)
    start = time.perf_counter()
    wrong = [said for seed in range(options.first, options.first + options.settings) if (said := off(seed, options.draws))]
    run = {"settings": options.settings, "draws": options.draws, "wrong": wrong, "seconds": round(time.perf_counter() - start, 1)}
    claim = "sampling follows its stated distribution: chi-square over 300 settings, each in three ways"
    write("sampling", claim, f"{len(wrong)} of {options.settings} settings differ", [run], not wrong)
    sys.exit(bool(wrong))
