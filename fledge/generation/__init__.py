"""Tokens → more tokens: sampling, and one engine with slots."""

from fledge.generation.engine import Completion, Engine, Request
from fledge.generation.sampling import Sampling

__all__ = ["Completion", "Engine", "Request", "Sampling"]
