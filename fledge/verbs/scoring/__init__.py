"""`evaluate`: how good models are on text, labelled rows, pairs, a test of one's own or published ones; one module for each."""

from fledge.verbs.scoring.evaluating import evaluate

__all__ = ["evaluate"]
