"""A small Transformer of 2017, from scratch on 29,000 captions, German to English: sacreBLEU, lower-cased, on test_2016_flickr.

A published one of 9 million parameters has 36.5, tokenised differently. `--time 60m` is for the first claim, `--time 150m` for the
second.
"""

import tempfile
from pathlib import Path

from record import arguments, data_folder, write

import fledge
from fledge.arch import parameter_count
from fledge.verbs.session import seconds_of

CLAIMS = {3600: 30.0, 9000: 34.0}  # seconds: BLEU


def main() -> None:
    options = arguments(__doc__, time="60m", width=256, depth=3, dropout=0.2, vocab=8000, beams=4, rows=0, seed=0, set="")
    settings = [f"arch.width={options.width}", f"arch.depth={options.depth}", f"arch.dropout={options.dropout}", "arch.heads=4"]
    settings += ["save.patience=0", *options.set.split()]
    data = data_folder() / "translate"
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "translator")
        source = data / "multi30k-train"
        if options.rows:
            source = first_rows(source, options.rows, Path(folder))
        done = fledge.finetune.pairs(
            source, out=out, arch="transformer-base", source_column="de", target_column="en", vocab=options.vocab, validation=0.02,
            time=options.time, set=settings, seed=options.seed,
        )  # fmt: skip
        test = str(data / "multi30k-test_2016_flickr")
        scores = {}
        for beams in sorted({1, options.beams}):
            found = fledge.evaluate([str(out)], on=test, beams=beams, lowercase=True).scores
            scores[f"beams {beams}"] = {s.measure: {"value": s.value, "interval": s.interval, "signature": s.signature} for s in found}
        parameters = parameter_count(fledge.load(out).arch)
    value = max(found["BLEU"]["value"] for found in scores.values())
    within = seconds_of(options.time)
    reached = any(within <= seconds and value >= least for seconds, least in CLAIMS.items())
    run = {
        "parameters": parameters, "steps": done.steps, "tokens": done.tokens, "seconds": round(done.seconds, 1),
        "validation": done.validation, "scores": scores,
    }  # fmt: skip
    claim = "lower-cased sacreBLEU on test_2016_flickr of at least 30 within 60 minutes, and of 34 within 150"
    measured = f"{value:.1f} within {options.time}"
    write("translate_multi30k", claim, measured, [run], reached, settings=settings, time=options.time)


def first_rows(source: Path, rows: int, folder: Path) -> Path:
    """A piece of the data, to try the script out."""
    import gzip

    for language in ("de", "en"):
        with gzip.open(f"{source}.{language}.gz", "rt", encoding="utf-8") as file:
            text = "".join(line for line, _ in zip(file, range(rows), strict=False))
        (folder / f"part.{language}").write_text(text, encoding="utf-8")
    return folder / "part"


if __name__ == "__main__":
    main()
