"""Tokens → more tokens: sampling, one engine with slots, and on it beam search and the filling of gaps."""

from fledge.generation.beam import beam_search
from fledge.generation.contracts import Contract
from fledge.generation.engine import Completion, Engine, Request, Row
from fledge.generation.filling import Filling, Gapped, fill, marks_of
from fledge.generation.sampling import Sampling

__all__ = ["Completion", "Contract", "Engine", "Filling", "Gapped", "Request", "Row", "Sampling", "beam_search", "fill", "marks_of"]
