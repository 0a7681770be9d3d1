"""Output by contract: what is generated keeps to a JSON schema, a regular expression or a choice; llguidance knows what may follow."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from fledge.text.bulk import BYTES
from fledge.text.sentencepiece import SPACE
from fledge.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

BLANKS = r"[ \n]{1,8}"  # between the parts of JSON: what people write, and not so many that a small model never comes to the next part
HEX = {f"<0x{byte:02X}>": byte for byte in range(256)}  # SentencePiece's names of bytes
# In llguidance's measure of expressions. With its own 1,000,000 the first token of `(a{1000}){1000}` takes 25 s, for which all rows wait;
# with this 0.3 s, and such a text ends early. A schema of 300 fields with bounds and patterns is within it.
WORK = 100_000
MOST_WORDS = 4  # that must appear: their automata are multiplied with each other


@dataclass(frozen=True)
class Contract:
    """What a text has to be; make one with `schema`, `regex`, `choice` or `containing`.

    A request with a contract ends where it is kept and nothing more can follow, or where the model stops once it is kept; what
    reached `max_tokens` before, or cannot go on, has "length" for a reason and is a beginning of what keeps it. No control token
    comes out, and the contract alone says where the text ends: stop strings do not cut it.
    """

    kind: Literal["schema", "regex", "choice", "containing"]
    told: str

    @classmethod
    def schema(cls, schema: Mapping[str, Any]) -> Contract:
        """JSON that is valid by a JSON Schema (draft 2020-12), its properties in the schema's order.

        Raises `ValueError` for an `enum` or a `const` with a whole number beyond ±2^53, which would be written rounded.
        """
        told = json.dumps(schema)
        json.loads(told, object_hook=_exact)
        return cls("schema", told)

    @classmethod
    def regex(cls, pattern: str) -> Contract:
        """A text that a regular expression (of Rust's syntax) matches whole; it cannot look around or back."""
        return cls("regex", pattern)

    @classmethod
    def choice(cls, texts: Iterable[str]) -> Contract:
        """One of several texts."""
        return cls("choice", json.dumps(_several(texts, "a choice")))

    @classmethod
    def containing(cls, words: Iterable[str]) -> Contract:
        """A text in which each of a few words appears, in any order."""
        words = _several(words, "words that must appear")
        if len(words) > MOST_WORDS:
            raise ValueError(f"{len(words)} words must appear, but at most {MOST_WORDS} can: leave some out")
        return cls("containing", json.dumps(words))

    def matcher(self, tokenizer: Tokenizer, vocabulary: int) -> Matcher:
        """What follows its beginnings, in this tokenizer's tokens and scores of so many ids.

        Raises `ValueError` for a contract that is none or cannot be kept to, for a tokenizer that cannot write every text, and where
        llguidance is not installed.
        """
        return Matcher(_begun(self, tokenizer).deep_copy(), vocabulary)

    def grammar(self) -> str:
        """What llguidance makes a matcher of."""
        from llguidance import LLMatcher

        if self.kind == "schema":
            return LLMatcher.grammar_from_json_schema(
                self.told, overrides={"whitespace_pattern": BLANKS, "lenient": False, "coerce_one_of": False}
            )
        if self.kind == "regex":
            return LLMatcher.grammar_from_regex(self.told)
        texts = [_literally(text) for text in json.loads(self.told)]
        if self.kind == "choice":
            return LLMatcher.grammar_from_regex("|".join(texts))
        return LLMatcher.grammar_from_lark(f"start: TEXT\nTEXT: {' & '.join(f'/(?s:.*){text}(?s:.*)/' for text in texts)}")

    @property
    def name(self) -> str:
        """What to call it in a sentence."""
        names = {"schema": "the JSON schema", "regex": "the regular expression", "choice": "the choice", "containing": "a text with"}
        return names[self.kind] if self.kind == "schema" else f"{names[self.kind]} {self.told[:80]}"


class Matcher:
    """Where in its contract a text that is being generated stands."""

    def __init__(self, matcher: LLMatcher, vocabulary: int):
        self._matcher, self._vocabulary = matcher, vocabulary

    def allowed(self, stops: Collection[int]) -> Tensor:
        """Which tokens may follow, (vocabulary,): those of a text that goes on, and `stops` where the contract is kept."""
        known = torch.frombuffer(bytearray(self._matcher.compute_logit_bias()), dtype=torch.uint8) > 0
        allowed = torch.zeros(self._vocabulary, dtype=torch.bool)
        if self.ended:
            return allowed
        allowed[: len(known)] = known[: self._vocabulary]
        allowed[list(stops)] = self.kept
        return allowed

    def accept(self, token: int) -> None:
        """The text goes on with a token that is allowed."""
        self._matcher.consume_token(token)

    @property
    def kept(self) -> bool:
        """Whether the text as it stands keeps the contract."""
        return not self._matcher.is_error() and self._matcher.is_accepting()

    @property
    def ended(self) -> bool:
        """Whether nothing can follow: the contract is kept, or it asks for more work than llguidance's limits allow."""
        return self._matcher.is_stopped()

    def copy(self) -> Matcher:
        """Another that stands at the same place and goes its own way."""
        return Matcher(self._matcher.deep_copy(), self._vocabulary)


class Vocabulary:
    """A tokenizer as llguidance reads one: the bytes of each token, and which are control tokens."""

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self.eos_token_id = tokenizer.end_of_text
        self.special_token_ids = sorted(tokenizer.controls.values())
        self.tokens = token_bytes(tokenizer)

    def __call__(self, text: str) -> list[int]:
        return self.tokenizer.encode(text)


def token_bytes(tokenizer: Tokenizer) -> list[bytes]:
    """What each token writes within a text: control tokens their names, ids of no token nothing.

    Raises `ValueError` for a tokenizer that has no token for some byte, with which not every text can be written.
    """
    backend = tokenizer.backend
    added = {number: token.content for number, token in backend.get_added_tokens_decoder().items()}
    if all(backend.token_to_id(name) is not None for name in BYTES):
        read = _byte_level
    elif all(backend.token_to_id(name) is not None for name in HEX):
        read = _with_fallback
    else:
        raise ValueError("a contract needs a tokenizer that has a token for each of the 256 bytes, but this one cannot write every text")
    names = [added.get(number) or backend.id_to_token(number) for number in range(tokenizer.size)]
    return [b"" if name is None else name.encode() if number in added else read(name) for number, name in enumerate(names)]


def _byte_level(name: str) -> bytes:
    return bytes(map(BYTES.__getitem__, name))


def _with_fallback(name: str) -> bytes:
    """As SentencePiece writes pieces and the bytes of what has none."""
    return bytes([HEX[name]]) if name in HEX else name.replace(SPACE, " ").encode()


@lru_cache(maxsize=64)
def _begun(contract: Contract, tokenizer: Tokenizer) -> LLMatcher:
    """One for all requests with the same contract; they go on with copies of it."""
    readable = _readable(tokenizer)
    from llguidance import LLMatcher, LLParserLimits

    found = LLMatcher(readable, contract.grammar(), log_level=0, limits=LLParserLimits(initial_lexer_fuel=WORK))
    if found.is_error():
        raise ValueError(f"{contract.name} cannot be kept to: {_reason(found.get_error())}")
    return found


@lru_cache(maxsize=4)
def _readable(tokenizer: Tokenizer) -> LLTokenizer:
    """One for all requests, for with a large vocabulary it takes a second to make."""
    try:
        import llguidance
    except ImportError:
        raise ValueError("output by contract needs llguidance, which is not installed: pip install 'fledge[serve]'") from None
    return llguidance.LLTokenizer(llguidance.TokenizerWrapper(Vocabulary(tokenizer)))


def _exact(part: dict[str, Any]) -> dict[str, Any]:
    """A part of a schema, if what it lists can be written: llguidance reads numbers as floats."""

    def whole(digits: str) -> int:
        if abs(int(digits)) > 2**53:
            raise ValueError(f"the JSON schema lists {digits}, but whole numbers beyond ±2^53 would be rounded: make it a text, in quotes")
        return int(digits)

    json.loads(json.dumps([part.get("enum"), part.get("const")]), parse_int=whole)
    return part


def _several(texts: Iterable[str], what: str) -> list[str]:
    if isinstance(texts, str):
        raise ValueError(f"{what} is the text {texts!r}, but a list of texts is needed: [{texts!r}]")
    if not (several := list(texts)):
        raise ValueError(f"{what} has no texts: give at least one")
    return several


def _literally(text: str) -> str:
    """The regular expression of a text, in letters, digits and numbers of characters alone, for grammars have quotes of their own."""
    return "".join(c if c.isascii() and c.isalnum() else rf"\x{{{ord(c):X}}}" for c in text)


def _reason(error: str) -> str:
    """What is at fault, without the grammar that llguidance shows after it."""
    return error.strip().splitlines()[0][:200]
