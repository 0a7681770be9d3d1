"""The command line: parse, call a verb, print what it returns."""

import errno
import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import Annotated

from cyclopts import App, CycloptsError, Parameter

from fledge import __version__, verbs
from fledge.arch.record import to_json

app = App(
    name="fledge",
    help="Raise your own language model: from raw text to an assistant, on the machine you have.",
    version=__version__,
    default_parameter=Parameter(negative=()),
    result_action="return_value",
)
finetune = App(name="finetune", help="Turn a copy of a pretrained model into a classifier or an assistant.")
for verb in (verbs.demo, verbs.prepare, verbs.pretrain, verbs.evaluate, verbs.chat, verbs.predict, verbs.show):
    app.command(verb)
app.command(verbs.stream, name="generate")
app.command(finetune)
for verb in (verbs.finetune.classify, verbs.finetune.instruct):
    finetune.command(verb)


@app.meta.default
def launch(*words: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)], json: bool = False) -> None:
    """Read the whole command line.

    Args:
        json: print one JSON object on standard output instead of text.
    """
    command, bound, _ = app.parse_args(words, exit_on_error=False, print_error=False)
    show(command(*bound.args, **bound.kwargs), as_json=json)


def show(result, as_json: bool) -> None:
    """Print a verb's result as JSON, or as people read it; pieces of text as they come."""
    if isinstance(result, Iterator):
        if as_json:
            print(json.dumps({"text": "".join(result)}, ensure_ascii=False))
            return
        for piece in result:
            print(piece, end="", flush=True)
        print()
    elif as_json:
        print(json.dumps(result.to_json() if hasattr(result, "to_json") else to_json(result), ensure_ascii=False))
    elif result is not None:
        print(result)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code: 0 done, 1 failed, 2 wrong use or bad input, 130 or 143 stopped by a signal after saving."""
    try:
        app.meta(sys.argv[1:] if arguments is None else list(arguments), exit_on_error=False, print_error=False)
    except CycloptsError as wrong:
        return complain(f"{wrong}\nfledge --help shows what there is, fledge VERB --help what a verb takes.", 2)
    except KeyboardInterrupt:
        return complain("stopped.", 128 + signal.SIGINT)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, FileNotFoundError) as bad:
        return complain(str(bad), 2)
    except (OSError, FloatingPointError) as failed:
        return complain(sentence(failed), 1)
    except Exception as ended:
        if not hasattr(ended, "exit_code"):
            raise
        return complain(f"{ended}", ended.exit_code)
    return 0


def sentence(failed: Exception) -> str:
    """What went wrong on the machine, and what to do about it."""
    match failed:
        case OSError(errno=errno.ENOSPC) | OSError(errno=errno.EDQUOT) | OSError(errno=errno.EFBIG):
            return f"the disk is full ({failed}); what was saved before is whole: free some space and give the same command again"
        case PermissionError(filename=str(name)):
            return f"no permission to write {name}: choose another --out, or change its permissions"
    return str(failed)


def complain(words: str, code: int) -> int:
    if os.environ.get("FLEDGE_TRACEBACK"):
        import traceback

        traceback.print_exc()
    print(f"fledge: {words}", file=sys.stderr)
    return code
