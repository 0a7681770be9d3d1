"""A process of its own that renders one Jinja template in a sandbox: `python -P rendering.py`, a JSON object a line in, one a line out.

The first line is the template, as `{"template": ...}`; the answer to it, and to each object of variables after it, is `{"text": ...}` or
`{"error": ...}`. A template that takes more processor time or memory than it may ends the process. Imports nothing of fledge.
"""

import json
import signal
import sys
from datetime import datetime
from typing import Any

SECONDS = 1.0  # of the processor, to compile a template or to render it once
MEMORY = 1 << 30  # bytes of addresses in all
OUTPUT = 1 << 20  # characters, beside four times what it was given


def environment() -> Any:
    """What chat templates may use: as `transformers` gives it to them, names that begin with an underscore left out."""
    import jinja2
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}` marks what an assistant says and changes nothing."""

        tags = {"generation"}  # noqa: RUF012 jinja2 says so

        def parse(self, parser):
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    class Namespace(jinja2.utils.Namespace):
        """Without underscores: an attribute such as `__class__` would lead out of the sandbox."""

        def __init__(*given, **attributes):
            self, *maps = given
            named = dict(*maps, **attributes)
            for name in named:
                _refuse_underscore(name)
            jinja2.utils.Namespace.__init__(self, named)

        def __setitem__(self, name, value):
            _refuse_underscore(name)
            super().__setitem__(name, value)

    def _refuse_underscore(name: Any) -> None:
        if not isinstance(name, str) or name.startswith("_"):
            raise jinja2.exceptions.SecurityError(f"a namespace has no attribute {name!r}")

    def raise_exception(words: Any) -> None:
        raise jinja2.TemplateError(str(words))

    def tojson(value: Any, ensure_ascii: bool = False, indent=None, separators=None, sort_keys: bool = False) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    now = datetime.now()  # one for all that this process renders
    made: Any = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    made.filters["tojson"] = tojson
    made.globals.update(raise_exception=raise_exception, strftime_now=now.strftime, namespace=Namespace)
    return made


def rendered(template: Any, variables: dict[str, Any], most: int) -> str:
    """The text, if it is at most `most` characters; raises `ValueError` for more."""
    parts, length = [], 0
    for part in template.generate(variables):
        parts.append(part)
        length += len(part)
        if length > most:
            raise ValueError(f"it writes more than {most:,} characters")
    return "".join(parts)


def main() -> None:
    import resource  # which Windows lacks, and what the others read of this file needs not

    made, template = environment(), None
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_PROF, SECONDS)  # its signal ends a process that does not ask for it
        try:
            given = json.loads(line)
            if template is None:
                template, answer = made.from_string(given["template"]), {"text": ""}
            else:
                answer = {"text": rendered(template, given, OUTPUT + 4 * len(line))}
        except Exception as wrong:  # a template may raise anything
            answer = {"error": str(wrong) or type(wrong).__name__}
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
