"""`fledge demo` as a user runs it: does it keep its time, and how good are its three models beside what they are compared with?"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from record import arguments, write

from fledge.verbs.session import seconds_of


def main() -> None:
    options = arguments(__doc__, time="5m", seed=0)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "demo")
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "fledge", "demo", "--time", options.time, "--seed", str(options.seed), "--out", str(out), "--json"],
            stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
        seconds = time.monotonic() - began
        found = json.loads(done.stdout)
    methods = {method["name"]: method["score"]["macro_f1"] for method in found["classifier"]["methods"]}
    words, ours = methods["TF-IDF + logistic regression"], methods["this model"]
    model = found["base"]["validation"]["bits_per_byte"]
    rivals = {rival["name"]: rival["bits_per_byte"]["value"] for rival in found["rivals"]}
    before, after = (found["assistant"][when]["perplexity"]["value"] for when in ("before", "after"))
    reached = {
        "time within 10 %": abs(seconds / seconds_of(options.time) - 1) <= 0.1,
        "base model below every n-gram and compressor": all(model < bits for bits in rivals.values()),
        "classifier's lower bound at least TF-IDF - 0.02": ours["low"] >= words["value"] - 0.02,
        "perplexity of held-out answers halved": after <= before / 2,
    }
    run = {
        "seconds": round(seconds, 1), "parameters": found["base"]["parameters"], "tokens": found["base"]["tokens"],
        "bits_per_byte": {"this model": model, **rivals}, "macro_f1": methods, "perplexity": {"before": before, "after": after},
        "reached": reached,
    }  # fmt: skip
    fivegrams, low = rivals["5-grams (Kneser-Ney)"], ours["low"]
    measured = (
        f"{seconds:.0f} s; {model:.3f} bits per byte, 5-grams {fivegrams:.3f}; macro-F1 {ours['value']:.3f} (at least {low:.3f}), "
        f"TF-IDF {words['value']:.3f}; perplexity {before:.1f} to {after:.1f}"
    )
    write("demo", f"fledge demo in {options.time}: " + "; ".join(reached), measured, [run], all(reached.values()))


if __name__ == "__main__":
    main()
