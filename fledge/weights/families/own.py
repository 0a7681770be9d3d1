"""What no published family expresses: our own tensor names, the whole `Arch` in config.json. Only fledge opens it."""

from collections.abc import Mapping
from typing import Any

from fledge.arch import Arch
from fledge.weights.families.fields import head_fields
from fledge.weights.rules import Rule, rule
from fledge.weights.shell import shell

BODY, IGNORED = "", r"(?!)"
HEAD, EMBEDDING = "head.weight", "embedding.weight"


def arch(config: Mapping[str, Any]) -> Arch:
    if not isinstance(config.get("arch"), dict):
        raise ValueError("config.json has model_type fledge, but no arch")
    return Arch.from_json(config["arch"])


def config(given: Arch) -> dict[str, Any]:
    named = head_fields(given.head, "FledgeForCausalLM", "FledgeForSequenceClassification")
    return {**named, "model_type": "fledge", "vocab_size": given.vocabulary, "arch": given.to_json()}


def table(given: Arch) -> list[Rule]:
    return [rule(name, name) for name in shell(given).state_dict()]
