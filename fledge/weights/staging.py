"""Replacing the files of a folder together: whatever stops it, the folder holds the old model whole or the new one whole."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fledge.data.files import sync

SAVING, SAVED, STALE = ".saving", ".saved", ".stale"


@contextmanager
def replacing(folder: Path, *owned: str) -> Iterator[Path]:
    """A fresh folder inside `folder` to write to; when the block ends without an error its files replace those of the same name.

    Files of `folder` that match a pattern of `owned` and have no successor are removed. One rename decides: before it a failure
    removes what was written; after it `finish` completes the work, at once or, after a kill, when the folder is next opened or saved to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    finish(folder)
    stage = folder / SAVING
    shutil.rmtree(stage, ignore_errors=True)  # a killed save left it
    stage.mkdir()
    try:
        yield stage
        there = [path.relative_to(folder) for pattern in owned for path in folder.glob(pattern)]
        stale = [path.as_posix() for path in there if not (stage / path).exists()]
        (stage / STALE).write_text("\n".join(stale), encoding="utf-8")
        for path in stage.rglob("*"):
            sync(path)
        sync(stage)
        os.rename(stage, folder / SAVED)
    except BaseException:
        shutil.rmtree(stage, ignore_errors=True)
        raise
    sync(folder)
    finish(folder)


def finish(folder: Path) -> None:
    """Move the files of a decided save to their places and remove the stale ones; nothing to do unless a save was killed meanwhile."""
    saved = folder / SAVED
    if not saved.is_dir():
        return
    parts = sorted(path for path in saved.rglob("*") if path.is_dir())
    for path in sorted(path for path in saved.rglob("*") if path.is_file()):  # shards come before their index
        if path.name != STALE:
            target = folder / path.relative_to(saved)
            target.parent.mkdir(exist_ok=True)
            os.replace(path, target)
    for part in parts:
        sync(folder / part.relative_to(saved))
        part.rmdir()
    if (saved / STALE).exists():
        for name in (saved / STALE).read_text(encoding="utf-8").split("\n"):
            if name:
                (folder / name).unlink(missing_ok=True)
        (saved / STALE).unlink()
    saved.rmdir()
    sync(folder)
