"""What a fine-tuned model has forgotten: measured at the end of each way of fine-tuning that leaves it going on from text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fledge.verbs.session import AFTER, ModelWriter

if TYPE_CHECKING:
    from fledge.model import Transformer
    from fledge.train.run import Machine
    from fledge.verbs.scoring.results import Forgotten

MEASURING = 30.0  # seconds, where nobody says how long it all may take


def forgotten_by(model: Transformer, writer: ModelWriter, machine: Machine, seconds: float | None) -> Forgotten | None:
    """The model that `writer` saves beside its parent, as `evaluate` tells it, within a third of what is kept back of `seconds`."""
    from fledge.train.loop import on_machine
    from fledge.verbs.model import Model
    from fledge.verbs.scoring.texts import forgotten

    limit = MEASURING if seconds is None else AFTER / 3 * seconds
    with on_machine(machine):
        return forgotten(str(writer.out), Model(model, writer.tokenizer, writer.facts), machine.device, limit)


def as_score(found: Forgotten | None) -> dict[str, Any]:
    """As a score in the model's folder."""
    if found is None:
        return {}
    return {"bits per byte of its parent's held-out text": {"before": found.before.value, "after": found.after.value}}


def lines(*told: object) -> str:
    """What there is of these, each on a line of its own."""
    return "\n".join(str(one) for one in told if one is not None)
