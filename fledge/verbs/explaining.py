"""`explain`: which words decided, what each token cost, and what every head of attention looks at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from fledge.arch import Words
from fledge.arch.record import did_you_mean
from fledge.verbs import terminal
from fledge.verbs.model import Model, Precision, load
from fledge.verbs.pages import explained_page
from fledge.verbs.session import Name, Place

if TYPE_CHECKING:
    from fledge.data.framing import Framed
    from fledge.explanation import Deciding, Looked, Surprise

SHOWN = 12  # words and heads in a terminal


@dataclass(frozen=True)
class Head:
    """One head of attention: the word that it looks at most, the share of its attention which that gets, how many tokens away it looks."""

    layer: str
    head: int
    most: str
    share: float
    distance: float


@dataclass(frozen=True)
class Explained:
    """What a model said of a text (`said`, with its probability) and why; `out` is the page that shows it, if one was asked for.

    `surprises` are there where a model scores the words that it reads.
    """

    said: str
    probability: float
    deciding: Deciding
    surprises: tuple[Surprise, ...]
    heads: tuple[Head, ...]
    out: str | None = None

    def __str__(self) -> str:
        found = self.deciding
        lines = [f"{self.said}: {self.probability:.1%}"]
        width = max([len(word.text.strip()) for word in found.strongest[:SHOWN]] or [4])
        lines.append(f"{'word':<{width}}  gradient  occlusion   (what it adds to the log-odds, in nats)")
        lines += [
            f"{terminal.plain(word.text.strip()):<{width}}  {word.gradient:+8.3f}  {word.occlusion:+9.3f}"
            for word in found.strongest[:SHOWN]
        ]
        if found.agreement is not None:
            lines.append(f"agreement of both (rank correlation): {found.agreement:.2f}")
        return "\n".join([*lines, *([f"Look at {self.out}"] if self.out else [])])


def explain(
    model: Name,
    text: str,
    /,
    *,
    second: str | None = None,
    label: Annotated[str | None, Parameter(metavar="LABEL")] = None,
    out: Place | None = None,
    device: str = "auto",
    dtype: Precision = "float32",
    threads: int = 0,
) -> Explained:
    """Explain what a classifier says of a text, or what a language model would say next.

    Words are weighed twice: by integrated gradients, and by taking each away. Where both agree, believe them. Beside them stands what
    each head of attention looks at, and for a language model how surprised it was at each token and what it would rather have said.

    Args:
        model: a model folder or hub id.
        text: the text.
        second: the second text, for a classifier that judges pairs.
        label: explain this label of a classifier; by default the one that it says.
        out: write a page that shows it all there, as .html.
        device: auto, cpu or cuda.
        dtype: of the weights and products; int8 holds the weights of the blocks in 8 bits.
        threads: CPU threads; 0 leaves the number to torch.
    """
    if out is not None and Path(out).suffix != ".html":
        raise ValueError(f"--out {out} is a page: give a name that ends in .html")
    opened = load(model, device, dtype, threads)
    if not text.strip() or (second is not None and not second.strip()):
        raise ValueError("the text is empty: there is nothing to explain")
    row = row_of(opened, text, second)
    said, probability, deciding = decided(opened, row, text, second, label)
    seen, layers, pieces = surprised(opened, row), looking(opened, row), pieces_of(opened, row)
    heads = tuple(Head(layer.name, number + 1, *layer.summary(number, pieces)) for layer in layers for number in range(len(layer.weights)))
    terminal.say(f"{said}: {probability:.1%}. Green words spoke for it, red ones against:")
    terminal.weighed([(word.text, word.gradient + word.occlusion) for word in deciding.words])
    if seen:
        terminal.say("How surprising each token was (the greener the more):")
        terminal.weighed([(one.piece.replace("·", " "), one.bits or 0.0) for one in seen])
        told = sorted((one for one in seen if one.bits is not None), key=lambda one: -(one.bits or 0))[:SHOWN]
        terminal.table(
            ["token", "bits", "guess", "rather"],
            [[one.piece, f"{one.bits:.1f}", f"{one.rank:,}", one.rather(3)] for one in told],
        )
    keenest = sorted(heads, key=lambda head: -head.share)[:SHOWN]
    terminal.table(
        ["attention", "head", "looks most at", "share", "tokens away"],
        [[head.layer, str(head.head), head.most, f"{head.share:.0%}", f"{head.distance:.1f}"] for head in keenest],
    )
    done = Explained(said, probability, deciding, tuple(seen), heads, None if out is None else str(out))
    if out is not None:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        explained_page(done, Path(model).name, layers, pieces).write(out)
    return done


def row_of(model: Model, text: str, second: str | None) -> Framed:
    """What the model reads of a text, up to its context."""
    from fledge.data.framing import Frames

    told = model.facts.get("reads") if model.arch.labels else None
    frames = Frames([text if second is None else (text, second)], model.tokenizer, min(told or model.arch.context, model.arch.context))
    if frames.beyond:
        terminal.say(f"  the text is longer than {frames.context:,} tokens: its first {frames.context:,} are explained")
    return frames.row(0)


def decided(model: Model, row: Framed, text: str, second: str | None, label: str | None) -> tuple[str, float, Deciding]:
    """What was said, how probable it was, and the words that decided it."""
    import math

    from fledge.explanation import deciding_label, deciding_next

    if model.arch.labels:
        labels = model.arch.labels
        if label is not None and label not in labels:
            raise ValueError(f"--label {label!r} is no label of this model{did_you_mean(label, labels)}")
        chances = model.probabilities([text if second is None else (text, second)])
        [found] = model.labels_of(chances)
        chosen = labels.index(label or (found[0] if found else labels[int(chances[0].argmax())]))
        return labels[chosen], float(chances[0, chosen]), deciding_label(model.network, model.tokenizer, row, chosen)
    if label is not None or second is not None:
        raise ValueError("--label and --second are for classifiers, and this model is none")
    if not isinstance(model.arch.head, Words):
        raise ValueError(f"this model ends in {type(model.arch.head).__name__} and says nothing that could be explained")
    found = deciding_next(model.network, model.tokenizer, row.tokens.tolist())
    return f"next {found.said}", 1 / (1 + math.exp(-found.odds)), found


def surprised(model: Model, row: Framed) -> list[Surprise]:
    """What each token cost, of a model that scores the words it reads."""
    from fledge.explanation import surprises

    if not isinstance(model.arch.head, Words) or len(model.arch.stacks) == 2:
        return []
    return surprises(model.network, model.tokenizer, row.tokens.tolist())


def looking(model: Model, row: Framed) -> list[Looked]:
    from fledge.explanation import looked

    return looked(model.network, row)


def pieces_of(model: Model, row: Framed) -> list[str]:
    """The tokens of a row as they are shown."""
    return [model.tokenizer.piece(int(token)) for token in row.tokens]
