"""Changing a trained model: low-rank adapters beside its frozen weights, kept in PEFT's format and merged on request."""
