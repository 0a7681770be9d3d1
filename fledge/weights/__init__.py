"""Their files and our tensors: one reversible table per published family, safetensors, the model folder."""

from fledge.weights.folder import ModelFolder, open_model, save_model, verify

__all__ = ["ModelFolder", "open_model", "save_model", "verify"]
