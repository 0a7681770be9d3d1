"""A model of encyclopedia articles and novels goes on with central-bank speeches, in three mixtures at equal tokens.

Of each model the bits per byte of the same held-out speeches and of the same held-out general text, and by how much both
differ from the model that it started from (paired by document).
"""

import gzip
import json
from pathlib import Path

import numpy as np
from record import arguments, data_folder, scratch, write

import fledge
from fledge.arch.record import to_json
from fledge.data.corpus import Corpus
from fledge.evaluation.documents import closed_documents
from fledge.evaluation.language import document_costs
from fledge.evaluation.statistics import Interval, ratio

GENERAL, DOMAIN = ("text/wikipedia", "text/novels"), "domain/fed-speeches"
MIXTURES = ("domain=1", "domain=0.7,general=0.3", "domain=0.3,general=0.7")
HELD_OUT = 0.03  # of the documents


def main() -> None:
    options = arguments(
        __doc__, base_tokens=3_000_000, tokens=800_000, general_bytes=32_000_000, domain_bytes=16_000_000, arch="fledge-3m", vocab=4096,
        seed=0, folder="",
    )  # fmt: skip
    with scratch(options.folder) as folder:
        general, domain = folder / "general", folder / "domain"
        for name in GENERAL:
            some(name, general, options.general_bytes // len(GENERAL))
        some(DOMAIN, domain, options.domain_bytes)
        base = folder / "base"
        first = fledge.pretrain(
            [str(general)], out=base, arch=options.arch, vocab=options.vocab, tokens=options.base_tokens, validation=HELD_OUT,
            seed=options.seed, set=["arch.context=256"],
        )  # fmt: skip
        both = folder / "both"
        fledge.prepare(
            [f"domain={domain}", f"general={general}"], out=both, tokenizer=str(base), validation=HELD_OUT, seed=options.seed, discard=True
        )
        corpus = Corpus.open(both)
        before = costs(base, corpus)
        runs = [row("before", before, before, first.tokens)]
        for number, mix in enumerate(MIXTURES):
            out = folder / f"mixture-{number}"
            done = fledge.pretrain([str(both)], out=out, from_=base, mix=mix, tokens=options.tokens, seed=options.seed)
            runs.append(row(mix, costs(out, corpus), before, done.tokens))
        sizes = {
            name: {
                "train_tokens": group.train.tokens,
                "held_out_documents": group.validation.documents,
                "held_out_bytes": group.validation.bytes,
            }
            for name, group in corpus.groups.items()
        }
    _, alone, replayed, _ = runs
    share = 1 - replayed["general_change"]["value"] / alone["general_change"]["value"]
    kept = replayed["domain_change"]["value"] / alone["domain_change"]["value"]
    write(
        "domain",
        "continued on speeches with 30 % general text, a model keeps most of the gain of speeches alone and forgets less than half as much",
        f"{kept:.0%} of the gain, {share:.0%} less forgotten",
        runs,
        bool(kept > 0.5 and share > 0.5),
        groups=sizes,
        arch=options.arch,
        base_tokens=options.base_tokens,
        tokens=options.tokens,
    )


def some(name: str, folder: Path, limit: int) -> None:
    """A like share of all rows of a file, so many bytes of text in all at most."""
    folder.mkdir(exist_ok=True)
    with gzip.open(data_folder() / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line)["text"] for line in file]
    every = max(1, round(sum(len(row.encode()) for row in rows) / limit))
    with open(folder / f"{Path(name).name}.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": row}) + "\n" for row in rows[::every])


def costs(folder: Path, corpus: Corpus) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The bits and bytes of each held-out document of each group."""
    model, end = fledge.load(folder).network, corpus.tokenizer.end_of_text
    found = {}
    for name, group in corpus.groups.items():
        nats, _, sizes = document_costs(model, *closed_documents(group.validation, end), start=end, stride=model.arch.context // 2)
        found[name] = nats / np.log(2), sizes
    return found


def row(mixture: str, found: dict, before: dict, tokens: int) -> dict:
    """One line of the table: the bits per byte of each group, and how they changed."""
    line: dict = {"mixture": mixture, "tokens": tokens}
    for name, (bits, sizes) in found.items():
        line[name] = rounded(ratio(bits, sizes))
        line[f"{name}_change"] = rounded(ratio(bits - before[name][0], sizes))
    return line


def rounded(found: Interval) -> dict[str, float]:
    return {name: round(value, 4) for name, value in to_json(found).items()}


if __name__ == "__main__":
    main()
