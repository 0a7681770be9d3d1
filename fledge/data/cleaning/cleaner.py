"""A document as it came -> as it is kept, or rejected for one reason; each rule tells what it did."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

from fledge.data.cleaning.changes import Changes, Count, size
from fledge.data.cleaning.characters import composed, joined, repaired, without_controls
from fledge.data.cleaning.language import identifier
from fledge.data.cleaning.privacy import KINDS, masked
from fledge.data.cleaning.prose import CITATION, Verdict, Words, dropped_lines, judged_lines, judged_quality, judged_repetition
from fledge.data.cleaning.settings import Cleaning, Language, Lines, Privacy
from fledge.data.documents import Document, Rejected

ROUNDS = 8  # of all rules at most: what one leaves may be another's again
Effects = list[tuple[str, int, int]]
"""Of one rule on one text: for each name under which it counts, the bytes by which the text grew, and how often."""


class Rule(NamedTuple):
    """A change of a text: `apply` gives the new text (the same one where nothing is to be done) and what was done.

    One that is `local` does the same to each line whatever stands around it; one that `drops` does nothing but remove lines, all at once.
    """

    apply: Callable[[str], tuple[str, Effects]]
    local: bool = True
    drops: bool = False


ENDINGS = """
ada asm awk bas bash bat c cc cfg clj cljs cmake cmd coffee cpp cs css csx cu cuh cxx d dart diff el erl ex exs f f90 fish for fs go
gradle groovy h hh hpp hrl hs hxx inc ini ipynb java jl js json jsx kt kts less lisp lua m mak makefile mjs ml mli mm nim
pas patch php pl pm proto ps1 py pyi pyx r rb rkt rs sass scala scm scss sh sol sql sv svelte swift tcl tex tf toml ts tsx v vb vhd
vhdl vim vue xml yaml yml zig zsh
"""
CODE = frozenset(ENDINGS.split())
PACKED = frozenset(("gz", "zst", "xz", "bz2"))


class Cleaner:
    """Applies the rules of `settings` to one document after another: the same document always gives the same result.

    Raises `ValueError` when a rule needs a library that is not installed, or when a mask is itself taken for what it stands for.
    """

    def __init__(self, settings: Cleaning):
        self.settings = settings
        self._identify = identifier() if settings.language else None
        characters = [
            _rule(name, function)
            for name, function in (("repair", repaired), ("control_characters", without_controls), ("nfc", composed))
            if getattr(settings, name)
        ]
        private = list(_private(settings.privacy)) if settings.privacy else []
        hyphens = [_rule("hyphens", joined, local=False)] if settings.hyphens != "keep" else []
        self._code = [*characters, *private]
        self._prose = [*characters, *private, *(_lines(settings.lines) if settings.lines else ())]
        self._pdf = [*characters, *hyphens, *self._prose[len(characters) :]]

    def __call__(self, document: Document, tally: Changes | None = None) -> Document | Rejected:
        """The cleaned document, or why there is none; what was done is added to `tally`."""
        settings, before = self.settings, document.text
        came = size(before) if tally is not None else 0
        ending = _ending(document.source)
        code = settings.spare_code and ending in CODE
        rules = self._code if code else self._pdf if settings.hyphens == "all" or ending == "pdf" else self._prose
        text, effects = _settled(before, rules)
        language, verdict = "", None
        if settings != OFF and (not text or text.isspace()):
            verdict = Verdict("empty text", "")
        elif not code:
            language, verdict = self._judged(text)
        if verdict:
            item = Rejected(verdict.rule, document.source, document.line, verdict.detail, size(before))
        elif text is before and not language:
            item = document
        else:
            item = replace(document, text=text, language=language)
        if tally is not None:
            _note(tally, came, item, effects)
        return item

    def _judged(self, text: str) -> tuple[str, Verdict | None]:
        settings, language, sure = self.settings, "", 0.0
        verdicts: list[tuple[str, Iterable[Verdict]]] = []
        if settings.language and self._identify:
            language, sure = self._identify(text)
            verdicts.append(("", _language(language, sure, settings.language)))
            language = language if sure >= settings.language.confidence else ""
        words = Words(text)
        if settings.lines:
            verdicts.append(("lines.", judged_lines(text, settings.lines)))
        if settings.quality:
            verdicts.append(("quality.", judged_quality(text, words, language, settings.quality)))
        if settings.repetition:
            verdicts.append(("repetition.", judged_repetition(text, words, settings.repetition)))
        found = (Verdict(room + verdict.rule, verdict.detail) for room, each in verdicts for verdict in each)
        return language, next(found, None)


OFF = Cleaning.off()


def cleaner(settings: Cleaning) -> Cleaner:
    """What cleans documents by `settings`; it loads what it needs once."""
    return Cleaner(settings)


def _settled(text: str, rules: list[Rule]) -> tuple[str, Effects]:
    """`text` after all rules, by turns until each has found nothing more to do, and what they did."""
    done: Effects = []
    due = [True] * len(rules)
    for turn in range(ROUNDS * len(rules)):
        if not any(due):
            break
        at = turn % len(rules)
        if not due[at]:
            continue
        changed, effects = rules[at].apply(text)
        due[at] = False
        if changed != text:
            text = changed
            done += effects
            due = [was or not (rules[at].drops and (rule.local or rule.drops)) for was, rule in zip(due, rules, strict=True)]
    return text, done


def _rule(name: str, function: Callable[[str], str], local: bool = True) -> Rule:
    def apply(text: str) -> tuple[str, Effects]:
        changed = function(text)
        return (text, []) if changed == text else (changed, [(name, size(changed) - size(text), 1)])

    return Rule(apply, local)


def _private(settings: Privacy) -> Iterator[Rule]:
    for kind in KINDS:
        mask = getattr(settings, kind)
        if mask is not None:
            if masked(mask, kind, mask)[0] != mask:
                raise ValueError(
                    f"privacy.{kind} is {mask!r}, a part of which is itself taken for one: give another mask, such as '<{kind}>'"
                )
            yield _masking(kind, mask)


def _masking(kind: str, mask: str) -> Rule:
    def apply(text: str) -> tuple[str, Effects]:
        changed, times = masked(text, kind, mask)
        return (changed, [(f"privacy.{kind}", size(changed) - size(text), times)]) if times else (text, [])

    return Rule(apply)


def _lines(settings: Lines) -> Iterator[Rule]:
    def without_citations(text: str) -> tuple[str, Effects]:
        changed, times = CITATION.subn("", text) if "[" in text else (text, 0)
        return changed, [("lines.citations", size(changed) - size(text), times)] if times else []

    def without_lines(text: str) -> tuple[str, Effects]:
        changed, dropped = dropped_lines(text, settings)
        return changed, [(f"lines.{rule}", -size(line) - 1, 1) for rule, line in dropped]

    if settings.citations:
        yield Rule(without_citations)
    yield Rule(without_lines, local=False, drops=True)


def _language(language: str, sure: float, settings: Language) -> Iterator[Verdict]:
    if settings.keep and (language not in settings.keep or sure < settings.confidence):
        wanted = f"kept are {', '.join(settings.keep)} from {settings.confidence} on"
        yield Verdict("language", f"{language or 'unknown'} {sure:.2f}, {wanted}")


def _ending(source: str) -> str:
    """Of a name without what says how it is packed: `py` of `a.py.gz`, `makefile` of `src/Makefile`."""
    parts = source.replace("\\", "/").rpartition("/")[2].lower().split(".")
    return next((part for part in reversed(parts) if part not in PACKED), "")


def _note(tally: Changes, came: int, item: Document | Rejected, effects: Effects) -> None:
    tally.came += Count(1, came, 1)
    if isinstance(item, Rejected):
        tally.rejected[item.reason] = tally.rejected.get(item.reason, Count()) + Count(1, came, 1)
        return
    kept = Count(1, came + sum(grown for _, grown, _ in effects), 1)
    tally.kept += kept
    if item.language:
        tally.languages[item.language] = tally.languages.get(item.language, Count()) + kept
    done: dict[str, Count] = {}
    for name, grown, times in effects:
        done[name] = done.get(name, Count(1)) + Count(0, grown, times)
    for name, count in done.items():
        tally.changed[name] = tally.changed.get(name, Count()) + count
