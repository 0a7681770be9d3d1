"""`finetune`: a copy of a model becomes a classifier, an assistant, a translator; one module for each."""

from fledge.verbs.finetune.classifying import classify
from fledge.verbs.finetune.distilling import distill
from fledge.verbs.finetune.instructing import instruct
from fledge.verbs.finetune.pairing import pairs
from fledge.verbs.finetune.preferring import prefer
from fledge.verbs.finetune.rewarding import reward

__all__ = ["classify", "distill", "instruct", "pairs", "prefer", "reward"]
