"""Files for other runtimes, each checked in the one that it is meant for."""

from fledge.formats.gguf import FORMATS, Format, Gguf, file_name
from fledge.formats.llamacpp import Checked

__all__ = ["FORMATS", "Checked", "Format", "Gguf", "file_name"]
