"""The command line: parse, call a verb, print what it returns."""

import errno
import json
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import App, CycloptsError, Parameter

from fledge import __version__, verbs
from fledge.verbs import terminal
from fledge.verbs.session import BEGAN, REFUSALS, command, process_began

RESUMABLE = ("demo", "prepare", "pretrain", "finetune")


def stated(default) -> str | None:
    """A default as the help tells it; none and a flag's `False` go without saying."""
    return None if default is None or default is False else str(default)


app = App(
    name="fledge",
    help="Raise your own language model: from raw text to an assistant, on the machine you have.",
    help_format="plaintext",
    version=__version__,
    default_parameter=Parameter(negative=(), show_default=stated),
    result_action="return_value",
)
app.meta.suppress_keyboard_interrupt = app.suppress_keyboard_interrupt = False  # `main` says how to go on
finetune = App(
    name="finetune",
    help="Turn a copy of a pretrained model into a classifier, an assistant, a translator or a summariser; teach it by preferences, by a "
    "reward, or by a larger model.",
    sort_key=3,
)
app.command(finetune)
finetune.command(verbs.finetune.classify)
finetune.command(verbs.finetune.instruct)
finetune.command(verbs.finetune.pairs)
finetune.command(verbs.finetune.prefer)
finetune.command(verbs.finetune.reward)
finetune.command(verbs.finetune.distill)
# in the order of a model's life
app.command(verbs.demo, sort_key=0)
app.command(verbs.prepare, sort_key=1)
app.command(verbs.pretrain, sort_key=2)
app.command(verbs.evaluate, sort_key=4)
app.command(verbs.stream, name="generate", sort_key=5)
app.command(verbs.chat, sort_key=6)
app.command(verbs.predict, sort_key=7)
app.command(verbs.explain, sort_key=8)
app.command(verbs.embed, sort_key=9)
app.command(verbs.serve, sort_key=10)
app.command(verbs.import_model, name="import", sort_key=11)
app.command(verbs.export, sort_key=12)
app.command(verbs.plan, sort_key=13)
app.command(verbs.show, sort_key=14)


@app.meta.default
def launch(*words: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)], json: bool = False) -> None:
    """Read the whole command line.

    Args:
        json: print one JSON object on standard output; what is said to people goes to standard error.
    """
    call, bound, _ = app.parse_args(words, exit_on_error=False, print_error=False)
    with redirect_stdout(sys.stderr) if json else nullcontext():
        result = call(*bound.args, **bound.kwargs)
        if json and isinstance(result, Iterator):
            result = {"text": "".join(result)}
    show(result, json)


def show(result, as_json: bool) -> None:
    """Print a verb's result as JSON, or as people read it; pieces of text as they come."""
    if as_json:
        facts = result.to_json() if hasattr(result, "to_json") else asdict(result) if is_dataclass(result) else result
        print(json.dumps(facts, ensure_ascii=False))
    elif isinstance(result, Iterator):
        shown = terminal.plain if sys.stdout.isatty() else str
        for piece in result:
            print(shown(piece), end="", flush=True)
        print()
    elif result is not None and (text := str(result)):
        print(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code: 0 done, 1 failed, 2 wrong use or bad input, 130 or 143 stopped by a signal after saving."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    BEGAN.set(process_began() if arguments is None else None)
    again = f"\n  {shlex.join([command(), *words])}"
    # Threads on their own cores that soon wait asleep: spinning ones stand still once others work here, see docs/decisions/0008.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    fewer = "OMP_NUM_THREADS" in os.environ or any(word.startswith(("--threads", "machine.threads")) for word in words)
    if sys.platform == "linux" and not fewer and "WORLD_SIZE" not in os.environ:  # else several processes would all take the first cores
        os.environ.setdefault("OMP_PROC_BIND", "true")
        os.environ.setdefault("OMP_PLACES", "cores")  # not both threads of one core
    try:
        app.meta(words, exit_on_error=False, print_error=False)
    except CycloptsError as wrong:
        return complain(f"{wrong}\nfledge --help shows what there is, fledge VERB --help what a verb takes.", 2)
    except KeyboardInterrupt:
        goes_on = any(word in RESUMABLE for word in words[:2])
        return complain(f"stopped. This goes on:{again}" if goes_on else "stopped.", 128 + signal.SIGINT)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except REFUSALS as bad:
        return complain(sentence(bad), 2)
    except (OSError, FloatingPointError) as failed:
        return complain(sentence(failed), 1)
    except Exception as ended:
        if not hasattr(ended, "exit_code"):
            raise
        return complain(f"{ended}{again}", ended.exit_code)
    return 0


def sentence(failed: Exception) -> str:
    """What went wrong, and what to do about it."""
    match failed:
        case OSError(errno=errno.ENOSPC | errno.EDQUOT | errno.EFBIG):
            return f"the disk is full ({failed.strerror}); what was saved before is whole: free some space and give the same command again"
        case OSError(errno=errno.EACCES | errno.EPERM | errno.EROFS, filename=str(name)):
            return f"no permission to {denied(name)}: choose another place, or change its permissions"
        case OSError(errno=errno.ENOENT, filename=str(name)):
            return f"{name} does not exist"
        case NotADirectoryError(filename=str(name)) | FileExistsError(filename=str(name)):
            return f"{name} cannot be made, for a file stands there or above: choose another place"
        case IsADirectoryError(filename=str(name)):
            return f"{name} is a folder, but a file is needed"
    return str(failed)


def denied(name: str) -> str:
    """What is not allowed where: with the file itself if it is there, else with the nearest folder above that is."""
    if os.path.isfile(name) and not os.access(name, os.R_OK):
        return f"read {name}"
    if os.path.isfile(name) and not os.access(name, os.W_OK):
        return f"write {name}"
    folder = next(str(place) for place in (Path(name), *Path(name).absolute().parents) if os.path.isdir(place))
    return f"{'write in' if os.access(folder, os.R_OK | os.X_OK) else 'look into'} {folder}"


def complain(words: str, code: int) -> int:
    if os.environ.get("FLEDGE_TRACEBACK"):
        traceback.print_exc()
    print(f"fledge: {words}", file=sys.stderr)
    return code
