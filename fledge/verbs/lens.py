"""The loss lens: instruction data as a model reads it, the tokens that it would be trained on standing out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fledge.arch.record import to_json
from fledge.verbs import terminal
from fledge.verbs.finetune.instructing import Format, chosen_chat, row_length
from fledge.verbs.sections import Facts, Section, Table, draw
from fledge.verbs.session import Name, refuse_unknown

if TYPE_CHECKING:
    from fledge.data.instructions import Instructions, Lint
    from fledge.report import Page
    from fledge.text import Tokenizer, Turns

Lit = tuple[str, bool]
"""Some text, and whether it is trained on."""


@dataclass(frozen=True)
class Lens:
    """Conversations of one file under a format: what was found wrong, and the first of them with the tokens that are read (`cut` to a row
    of training)."""

    name: str
    model: str
    format: str
    whole: Instructions
    lint: Lint
    blocks: tuple[tuple[int, int, tuple[Lit, ...]], ...]
    """Of each conversation its row, how many tokens are cut, and its text."""

    def to_json(self) -> dict[str, Any]:
        facts = {"layout": self.whole.layout, "columns": list(self.whole.columns), "format": self.format}
        return {**facts, **to_json(self.lint)}

    def __str__(self) -> str:
        blocks = [f"row {row}{_cut(cut)}\n{''.join(terminal.lit(*part) for part in joined(text))}" for row, cut, text in self.blocks]
        what = "" if not blocks else f"in the format {self.format}, trained on is what stands out so: {terminal.lit('text', True)}"
        return "\n\n".join(["\n".join([*self.whole.said(), *self.lint.said(), what]).rstrip(), *blocks])

    def page(self) -> Page:
        from fledge.data.instructions import places
        from fledge.report import Page

        found = self.lint
        page = Page(f"What {Path(self.name).name} teaches", f"As {self.model} reads it, in the format {self.format}.")
        facts = Facts((
            ("conversations", found.rows), ("tokens", found.tokens), ("trained on", found.trained),
            ("share trained on", f"{found.trained / max(1, found.tokens):.0%}"), ("layout", self.whole.layout),
        ))  # fmt: skip
        rows = [(what, len(where), places(where) if where else "") for what, where in found.faults]
        table = Table("Rows in which something may be wrong", ("what", "rows", "where"), rows)
        draw(page, [Section("Data", (*self.whole.said(), facts, table)), Section("Conversations", ())])
        for row, cut, text in self.blocks:
            page.tokens(f"Row {row}{_cut(cut)}", text)
        return page


def _cut(tokens: int) -> str:
    return f", of which {tokens:,} tokens are cut" if tokens else ""


def lens_on(
    name: str, model: Name, format: Format | None, everything: bool, rows: int, context: int | None,
    prompt_column: str | None, answer_column: str | None,
) -> Lens:  # fmt: skip
    """What `finetune instruct` would train on with these settings.

    Raises `ValueError` as it would: for rows that cannot be read, and for a set in which no end of a turn would be learned.
    """
    from fledge.adapt.folder import folder_at
    from fledge.data.instructions import lint, read_instructions, tokenized
    from fledge.text import chat_format

    if format is not None:
        refuse_unknown(format, Format, "--format")
    folder = folder_at(model)
    tokenizer, length = folder.tokenizer, context or row_length(folder.arch)
    form = chat_format(format or chosen_chat(folder.facts, tokenizer), tokenizer)
    whole = read_instructions(name, prompt_column, answer_column)
    turns = tokenized(whole.conversations, form, tokenizer, everything)
    checked = lint(whole.conversations, turns, length, form.stop_tokens(tokenizer), folder.arch.context)
    shown = [(c.row, turn) for c, turn in zip(whole.conversations, turns, strict=True) if turn.tokens][:rows]
    blocks = tuple((row, max(0, len(turn.tokens) - length - 1), tuple(lit(tokenizer, turn, length + 1))) for row, turn in shown)
    return Lens(name, str(model), form.name, whole, checked, blocks)


def lit(tokenizer: Tokenizer, turns: Turns, longest: int | None = None) -> list[Lit]:
    """The first `longest` tokens as text, the last of those that make up a character having it, and whether each is trained on."""
    from fledge.generation.pieces import Pieces

    decoding = Pieces(partial(tokenizer.decode, specials=True))
    found = [(decoding.add(token), on) for token, on in zip(turns.tokens[:longest], turns.trained[:longest], strict=True)]
    return [*found[:-1], *((text + decoding.finish(), on) for text, on in found[-1:])]


def joined(text: Sequence[Lit]) -> list[Lit]:
    """Neighbours that are both trained on, or both not, in one.

    >>> joined([("a", True), ("b", True), ("c", False)])
    [('ab', True), ('c', False)]
    """
    found: list[Lit] = []
    for part, on in text:
        if found and found[-1][1] == on:
            found[-1] = (found[-1][0] + part, on)
        else:
            found.append((part, on))
    return found
