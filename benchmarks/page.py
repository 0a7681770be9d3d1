"""How large the page of the server is, and how soon it is there: many loads in a fresh browser profile each.

python benchmarks/page.py [--loads 20]
"""

import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from record import arguments, write

sys.path.insert(0, str(Path(__file__).parents[1]))

from playwright.sync_api import Response

from tests.server import models
from tests.server.browsing import PHONE, browsing
from tests.server.starting import KEY, running

CLAIM = "the page of the server has less than 150 kB in all, and is first painted in less than 0.5 s on this machine"
LARGEST, LATEST = 150_000, 500.0  # bytes; milliseconds
SCREENS: tuple[tuple[str, dict[str, Any]], ...] = (("desk", {}), ("phone", PHONE))
PAINTED = "performance.getEntriesByName('first-contentful-paint')[0].startTime"


def main() -> None:
    options = arguments(__doc__, loads=20)
    painted: dict[str, list[float]] = {"desk": [], "phone": []}
    usable: dict[str, list[float]] = {"desk": [], "phone": []}
    size, files = 0, 0
    with tempfile.TemporaryDirectory() as folder:
        places = models.made(Path(folder))
        with running(*(f"{name}={places[name]}" for name in ("assistant", "base", "classifier"))) as server, browsing() as browser:
            for number in range(options.loads + 1):  # the first one warms the server and is left out
                for name, how in SCREENS:
                    context = browser.new_context(**how)
                    page, got = context.new_page(), list[Response]()
                    page.on("response", partial(list.append, got))
                    page.add_init_script(f"sessionStorage.setItem('fledge.key', {KEY!r})")
                    page.goto(server.url)
                    page.locator("#tab-chat").wait_for()
                    if number:
                        painted[name].append(page.evaluate(PAINTED))
                        usable[name].append(page.evaluate("performance.now()"))
                    page.wait_for_load_state("networkidle")
                    ours = [len(one.body()) for one in got if "/v1/" not in one.url]
                    size, files = sum(ours), len(ours)
                    context.close()
    runs = [
        {
            "screen": name, "loads": options.loads, "bytes": size, "files": files,
            "first paint ms": {"median": round(statistics.median(painted[name]), 1), "largest": round(max(painted[name]), 1)},
            "usable ms": {"median": round(statistics.median(usable[name]), 1), "largest": round(max(usable[name]), 1)},
        }
        for name in painted
    ]  # fmt: skip
    latest = max(statistics.median(times) for times in painted.values())
    measured = f"{size:,} bytes in {files} files; first paint after {latest:.0f} ms (median of {options.loads})"
    write("page", CLAIM, measured, runs, size < LARGEST and latest < LATEST)


if __name__ == "__main__":
    main()
