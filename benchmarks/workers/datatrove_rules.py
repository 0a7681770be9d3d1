"""What datatrove's own filters decide of the texts on stdin (a JSON list), run where datatrove is: a JSON list on stdout."""

import json
import sys

import datatrove.pipeline.filters.c4_filters as c4
import datatrove.pipeline.filters.gopher_quality_filter as quality
import datatrove.pipeline.filters.gopher_repetition_filter as repetition
from datatrove.data import Document


def main() -> None:
    texts = json.load(sys.stdin)
    if "--plain-words" in sys.argv:
        for module in (quality, repetition):
            module.split_into_words = lambda text, language=None: text.split()
    rules = {
        "quality": quality.GopherQualityFilter(),
        "repetition": repetition.GopherRepetitionFilter(),
        "lines": c4.C4QualityFilter(filter_no_terminal_punct=False, min_num_sentences=-1),
    }
    decided = []
    for text in texts:
        found = {}
        for name, rule in rules.items():
            document = Document(text=text, id="0")
            result = rule.filter(document)
            found[name] = "" if result is True else result[1]
            found[f"{name}_text"] = document.text
        decided.append({**{name: found[name] for name in rules}, "kept": found["lines_text"]})
    json.dump(decided, sys.stdout)


if __name__ == "__main__":
    main()
