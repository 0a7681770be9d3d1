"""200 texts that would run a script or fetch something, were they read as markup, in every place where the page shows a text.

python benchmarks/page_xss.py [--payloads 200] [--first 0]
"""

import sys
import tempfile
import time
from pathlib import Path

from record import arguments, write

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.server import models
from tests.server.browsing import Room, browsing
from tests.server.hostile import PAYLOADS
from tests.server.starting import KEY, running

CLAIM = (
    "200 hostile texts in the chat, the completion, the classification and the model card of the page: 0 run, 0 requests to other places"
)
EVERY = 10  # payloads in a window, which an untouched text opens


def main() -> None:
    options = arguments(__doc__, payloads=len(PAYLOADS), first=0)
    tried, start = PAYLOADS[options.first : options.first + options.payloads], time.perf_counter()
    wrong, controls = [], 0
    with tempfile.TemporaryDirectory() as folder:
        places = models.made(Path(folder))
        with running(*(f"{name}={places[name]}" for name in ("assistant", "base", "classifier"))) as server, browsing() as browser:
            for first in range(0, len(tried), EVERY):
                room, controls = Room(browser, server.url, KEY), controls + len(Room.PLACES)
                texts = [("untouched", "an untouched text"), *enumerate(tried[first : first + EVERY], options.first + first)]
                wrong += [f"{name}: {found}" for name, text in texts for place in Room.PLACES if (found := room.complaint(place, text))]
                room.page.context.close()
    run = {
        "payloads": len(tried), "places": list(Room.PLACES), "controls": controls, "wrong": wrong,
        "seconds": round(time.perf_counter() - start, 1),
    }  # fmt: skip
    shown = len(tried) * len(Room.PLACES)
    write("page_xss", CLAIM, f"{len(wrong)} of {shown} wrong ({controls} untouched controls beside them)", [run], not wrong)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
