"""What no published family expresses: our own tensor names, the whole `Arch` in config.json. Only fledge opens it."""

from collections.abc import Collection, Mapping
from typing import Any

from fledge.arch import Arch, Classes, Words
from fledge.model import shell
from fledge.weights.families.fields import head_fields
from fledge.weights.rules import Rule, rule

BODY, IGNORED = "", r"(?!)"
REPEATS: Mapping[str, str] = {"head.weight": "embedding.weight"}
OLDER: Mapping[str, str] = {}


def arch(config: Mapping[str, Any], names: Collection[str] = ()) -> Arch:
    if not isinstance(config.get("arch"), dict):
        raise ValueError("config.json has model_type fledge, but no arch")
    return Arch.from_json(config["arch"])


def config(given: Arch) -> dict[str, Any]:
    named = (
        head_fields(given.head, "FledgeForCausalLM", "FledgeForSequenceClassification") if isinstance(given.head, Words | Classes) else {}
    )
    return {**named, "model_type": "fledge", "vocab_size": given.vocabulary, "arch": given.to_json()}


def table(given: Arch) -> list[Rule]:
    return [rule(name, name) for name in shell(given).state_dict()]
