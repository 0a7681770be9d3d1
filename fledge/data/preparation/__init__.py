"""Sources -> pieces -> staged parts -> a fate for each document -> shards: streaming, parallel, and going on after any end.

Everything follows from the sources and the settings alone, so that the corpus is the same, byte for byte, for any
number of workers and however often it was stopped on the way.
"""

from fledge.data.preparation.pipeline import Standing, prepare
from fledge.data.preparation.recipe import Recipe, vocabulary_for
from fledge.data.preparation.work import Work

__all__ = ["Recipe", "Standing", "Work", "prepare", "vocabulary_for"]
