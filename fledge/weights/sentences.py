"""How a folder makes one vector of a text, in the files of sentence-transformers, both ways (https://sbert.net)."""

import json
from pathlib import Path
from typing import Any

from fledge.weights.files import read_json, write_json

MODULES, LIMIT, POOLING = "modules.json", "sentence_bert_config.json", "1_Pooling/config.json"
PROMPTS, WORDS = "config_sentence_transformers.json", "tokenizer_config.json"  # version 6 keeps the limit in the latter
MODES = {"mean": "mean", "cls": "first", "lasttoken": "last"}
FLAGS = {  # what these modes were called as fields of their own, before version 6 and still read by it
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}


def read_sentences(folder: Path) -> dict[str, Any] | None:
    """What the vector `reads` (mean, first, last), whether it is `normalised`, and how many tokens are taken at the `longest`.

    Nothing for a folder without modules.json. Raises `ValueError` for one that makes its vectors in a way that fledge does not know.
    """
    if not (folder / MODULES).is_file():
        return None
    try:
        listed = json.loads((folder / MODULES).read_text(encoding="utf-8"))
        kinds = [str(module["type"]).rpartition(".")[2] for module in listed]
        places = [str(module["path"]) for module in listed]
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError, KeyError):
        raise ValueError(f"{folder / MODULES} is no list of modules, each with a type and a path") from None
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise ValueError(f"{folder / MODULES} lists {', '.join(kinds)}, but fledge knows Transformer, Pooling and Normalize, in this order")
    if (folder / places[1]).resolve().parent != folder.resolve():
        raise ValueError(f"{folder / MODULES} has its pooling in {places[1]!r}, but it may only be a folder in this one")
    config = folder / places[1] / "config.json"
    given = read_json(config)
    modes = given.get("pooling_mode", [mode for mode, flag in FLAGS.items() if given.get(flag)])
    modes = [modes] if isinstance(modes, str) else modes
    if len(modes) != 1 or modes[0] not in MODES:
        raise ValueError(f"{config} pools by {' and '.join(modes) or 'nothing'}, but fledge knows one of {', '.join(MODES)}")
    limit, words = (read_json(folder / name) if (folder / name).is_file() else {} for name in (LIMIT, WORDS))
    if limit.get("do_lower_case"):
        raise ValueError(f"{folder / LIMIT} lowers the case of texts, which fledge leaves to the tokenizer: set do_lower_case to false")
    prompts = read_json(folder / PROMPTS) if (folder / PROMPTS).is_file() else {}
    if prompts.get("default_prompt_name"):
        raise ValueError(f"{folder / PROMPTS} puts a prompt before texts, which fledge does not: set default_prompt_name to null")
    return {
        "reads": MODES[modes[0]],
        "normalised": "Normalize" in kinds,
        "longest": limit.get("max_seq_length") or words.get("model_max_length"),
    }


def write_sentences(folder: Path, told: dict[str, Any], width: int, context: int) -> None:
    """The inverse of `read_sentences`, for vectors of this width by a model of this context."""
    parts = [("Transformer", ""), ("Pooling", "1_Pooling"), *([("Normalize", "2_Normalize")] if told["normalised"] else [])]
    named = [(f"sentence_transformers.models.{kind}", path) for kind, path in parts]
    modules = [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (kind, path) in enumerate(named)]
    (folder / MODULES).write_text(json.dumps(modules, indent=2) + "\n", encoding="utf-8")
    write_json(folder / LIMIT, {"max_seq_length": min(told["longest"] or context, context), "do_lower_case": False})
    (folder / POOLING).parent.mkdir()
    flags = {flag: MODES.get(mode) == told["reads"] for mode, flag in FLAGS.items()}
    write_json(folder / POOLING, {"word_embedding_dimension": width, **flags})
