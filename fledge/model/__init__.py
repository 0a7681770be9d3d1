"""Tokens → hidden states → scores: what a query may see, attention, block, trunk, heads, starting weights, cache."""

from fledge.model import kernels
from fledge.model.cache import Cache, Memory
from fledge.model.shell import shell
from fledge.model.start import initialise, query_shares, starting_weights, with_new_head
from fledge.model.transformer import Transformer

__all__ = [
    "Cache",
    "Memory",
    "Transformer",
    "initialise",
    "kernels",
    "query_shares",
    "shell",
    "starting_weights",
    "with_new_head",
]
