"""SMS spam from the demo's base model: accuracy and macro-F1 with intervals beside the two baselines, on the same test rows."""

import tempfile
from pathlib import Path

from record import arguments, data_folder, write

import fledge
from fledge.arch.record import to_json


def main() -> None:
    options = arguments(__doc__, base="runs/demo/base", time="2m", seed=0)
    with tempfile.TemporaryDirectory() as folder:
        done = fledge.finetune.classify(
            str(data_folder() / "classify/sms-spam.tsv"), out=Path(folder, "spam"), from_=options.base, time=options.time, seed=options.seed
        )
    scores = {m.name: {"accuracy": to_json(m.score.accuracy), "macro_f1": to_json(m.score.macro_f1)} for m in done.methods}
    run = {
        "rows": done.score.rows,
        "scores": scores,
        "difference": to_json(done.difference),
        "verdict": done.verdict,
        "seconds": round(done.seconds, 1),
    }
    measured = "; ".join(f"{m.name}: accuracy {m.score.accuracy}, macro-F1 {m.score.macro_f1}" for m in done.methods)
    claim = "SMS spam from the demo's base model: test accuracy and macro-F1 with 95 % intervals beside the baselines"
    write("sms_spam", claim, measured, [run], True)


if __name__ == "__main__":
    main()
