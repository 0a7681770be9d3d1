"""Tokens → more tokens: sampling, one engine with slots, and beam search on it."""

from fledge.generation.beam import beam_search
from fledge.generation.engine import Completion, Engine, Request
from fledge.generation.sampling import Sampling

__all__ = ["Completion", "Engine", "Request", "Sampling", "beam_search"]
