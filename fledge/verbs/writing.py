"""`generate` continues a prompt."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Unpack, overload

from fledge.verbs.model import CONTRACTS, Precision, Settings, load
from fledge.verbs.session import Name, Place


def stream(
    model: Name,
    prompt: str,
    /,
    *,
    shots: Place | None = None,
    device: str = "auto",
    dtype: Precision = "float32",
    threads: int = 0,
    **settings: Unpack[Settings],
) -> Iterator[str]:
    """Continue a prompt.

    The text goes to standard output as it is made. What is not given comes from the model's own generation_config.json.

    Args:
        model: a model folder, or a hub id.
        prompt: the text to continue.
        shots: a file of worked examples put before the prompt: JSONL or JSON with `input` and `output`, or CSV/TSV of two columns.
        device: auto, cpu or cuda.
        dtype: of the weights and products; int8 holds the weights of the blocks in 8 bits.
        threads: CPU threads; 0 leaves the number to torch.
    """
    opened = load(model, device, dtype, threads)
    if shots is not None:
        prompt, settings = few_shot(shots, prompt), one_line(settings)
    yield from opened.stream(prompt, **settings)


@overload
def generate(
    model: Name, prompt: str, /, *, shots: Place | None = None, device: str = "auto", dtype: Precision = "float32",
    threads: int = 0, **settings: Unpack[Settings],
) -> str: ...  # fmt: skip
@overload
def generate(
    model: Name, prompt: Sequence[str], /, *, shots: Place | None = None, device: str = "auto", dtype: Precision = "float32",
    threads: int = 0, **settings: Unpack[Settings],
) -> list[str]: ...  # fmt: skip
def generate(model, prompt, /, *, shots=None, device="auto", dtype: Precision = "float32", threads=0, **settings: Unpack[Settings]):
    """The continuation of a prompt, or those of a list made side by side; arguments as `fledge generate` takes them."""
    opened = load(model, device, dtype, threads)
    if shots is not None:
        prompt = few_shot(shots, prompt) if isinstance(prompt, str) else [few_shot(shots, one) for one in prompt]
        settings = one_line(settings)
    return opened.generate(prompt, **settings)


def few_shot(shots: str | Path, prompt: str) -> str:
    """A prompt that shows worked examples first: `input -> output` lines, then the prompt's own line, left open."""
    from fledge.data.tables import table

    if not Path(shots).is_file():
        raise ValueError(f"--shots {shots} is no file: give a table of examples with an input and an output each")
    lines = []
    for row in table(str(shots), ("input", "output")).rows:
        values = (
            row.values if {"input", "output"} <= row.values.keys() else dict(zip(("input", "output"), row.values.values(), strict=False))
        )
        pair = [str(values.get(name, "")).strip() for name in ("input", "output")]
        if not all(pair) or any("\n" in text for text in pair):
            raise ValueError(f"{shots}, line {row.line}: an example needs an input and an output of one line each, but this row has {pair}")
        lines.append(" -> ".join(pair))
    return "\n".join([*lines, f"{prompt} ->"])


def one_line(settings: Settings) -> Settings:
    """Settings with which an answer ends where its line does, as those of the examples do, or where its contract says."""
    if any(settings.get(name) for name in CONTRACTS):
        return settings
    stop = settings.get("stop") or ()
    return {**settings, "stop": [*([stop] if isinstance(stop, str) else stop), "\n"]}
