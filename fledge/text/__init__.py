"""Strings to tokens and back: tokenizers trained and loaded; chat formats: messages to tokens and which of them are trained on."""

from fledge.text.chat import FORMATS, ChatFormat, Message, Turns
from fledge.text.templates import Template, chat_format
from fledge.text.tokenizer import RESERVED, Tokenizer, Training

__all__ = ["FORMATS", "RESERVED", "ChatFormat", "Message", "Template", "Tokenizer", "Training", "Turns", "chat_format"]
