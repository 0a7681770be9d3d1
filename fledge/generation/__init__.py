"""Tokens → more tokens: sampling, one engine with slots, and around it searches, contracts, drafts and the filling of gaps."""

from fledge.generation.beam import beam_search, diverse_beams
from fledge.generation.contracts import Contract
from fledge.generation.contrastive import contrastive_search
from fledge.generation.engine import Completion, Engine, Request, Row
from fledge.generation.filling import Filling, Gapped, fill, marks_of
from fledge.generation.prefixes import Prefixes
from fledge.generation.sampling import Sampling
from fledge.generation.speculative import DraftModel, Lookup, speculate

__all__ = [
    "Completion",
    "Contract",
    "DraftModel",
    "Engine",
    "Filling",
    "Gapped",
    "Lookup",
    "Prefixes",
    "Request",
    "Row",
    "Sampling",
    "beam_search",
    "contrastive_search",
    "diverse_beams",
    "fill",
    "marks_of",
    "speculate",
]
