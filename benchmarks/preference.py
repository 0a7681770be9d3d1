"""DPO on preferences after fine-tuning on the same kind of instructions: held-out reward accuracy, and what the chosen answers lose.

`--base` is a model to start from; without one it is made by the recipe of `base.py`.
"""

from pathlib import Path

from base import base_of, facts_of
from record import arguments, data_folder, scratch, write

import fledge
from fledge.arch.record import to_json


def main() -> None:
    options = arguments(__doc__, base="", epochs=4, rank=0, beta=0.1, sft=0.0, seed=0, folder="")
    data = data_folder() / "instruct"
    with scratch(options.folder) as folder:
        base = base_of(options, folder)
        made_by = facts_of(base)
        assistant = Path(folder, "assistant")
        fledge.finetune.instruct(data / "instruction-data.json", out=assistant, from_=base, epochs=options.epochs, seed=options.seed)
        done = fledge.finetune.prefer(
            data / "preference-data.json", out=Path(folder, "preferring"), from_=assistant, lora=options.rank or None, beta=options.beta,
            sft=options.sft, seed=options.seed,
        )  # fmt: skip
    rise = done.loss_after / done.loss_before - 1
    run = {
        "pairs": done.pairs, "steps": done.steps, "seconds": round(done.seconds, 1), "accuracy": to_json(done.accuracy),
        "margin": to_json(done.margin), "loss_before": done.loss_before, "loss_after": done.loss_after, "rise": round(rise, 4),
    }  # fmt: skip
    claim = "DPO: reward accuracy of at least 65 % on held-out pairs, and their chosen answers' loss no more than 10 % higher"
    measured = f"reward accuracy {done.accuracy}, loss {done.loss_before:.3f} to {done.loss_after:.3f} ({100 * rise:+.1f}%)"
    write(
        "preference", claim, measured, [run], done.accuracy.value >= 0.65 and rise <= 0.1, **vars(options) | {"folder": "", "base": made_by}
    )


if __name__ == "__main__":
    main()
