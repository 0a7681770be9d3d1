"""The command `fledge`, which `python -m fledge` is too."""

import os
import sys
from contextlib import suppress

TRAINING = ("demo", "pretrain", "finetune")
TUNABLES = "glibc.malloc.tcache_count=0"
"""Without a cache of small blocks glibc joins again what was freed around a tensor: training takes about a tenth less memory
(docs/decisions/0021). It reads this when a process starts."""


def main() -> int:
    """Run the command line; a command that trains starts anew as it is, once, with glibc told so."""
    given = os.environ.get("GLIBC_TUNABLES", "")
    if given.endswith(TUNABLES):  # now it has been read, and other programs shall not
        os.environ.pop("GLIBC_TUNABLES")
        os.environ |= {"GLIBC_TUNABLES": others} if (others := given.removesuffix(TUNABLES).removesuffix(":")) else {}
    elif sys.argv[1:2] and sys.argv[1] in TRAINING and sys.platform == "linux" and "glibc.malloc" not in given:
        with suppress(OSError):  # goes on as it is
            told = {**os.environ, "GLIBC_TUNABLES": ":".join(filter(None, (given, TUNABLES)))}
            os.execve(sys.executable, sys.orig_argv, told)
    from fledge import cli

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
