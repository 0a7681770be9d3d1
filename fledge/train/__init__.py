"""Scores become a loss, the loss better weights, the weights a checkpoint."""
