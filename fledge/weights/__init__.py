"""Their files and our tensors: one reversible table per published family, safetensors, the model folder."""

from fledge.weights.folder import ModelFolder, open_model, save_model, verify
from fledge.weights.llama2c import read_llama2c

__all__ = ["ModelFolder", "open_model", "read_llama2c", "save_model", "verify"]
