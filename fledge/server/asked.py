"""The bodies of requests, as OpenAI's clients send them; what is not known is refused, so that no misspelled setting is left out unsaid."""

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from fledge.arch.record import did_you_mean
from fledge.server.refusal import Refusal

Short = Annotated[str, Field(min_length=1, max_length=256)]
Name = Annotated[str, Field(min_length=1, max_length=512)]
TOP = 20  # alternatives of a token, at most
SEEDS = 2**63
LONGEST_FORMAT = 1 << 16  # characters, for what they mean is found out while other answers wait


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Loose(BaseModel):
    """What clients send back as they got it, with fields that mean nothing here."""

    model_config = ConfigDict(extra="ignore", strict=True)


class Schema(Loose):
    name: str | None = None
    schema_: dict[str, Any] | bool = Field(alias="schema")


class Format(Body):
    """What an answer keeps to: any JSON object, JSON of a schema, a regular expression, one of several texts."""

    type: Literal["text", "json_object", "json_schema", "regex", "choice"]
    json_schema: Schema | None = None
    regex: Annotated[str, Field(max_length=4096)] | None = None
    choice: Annotated[list[str], Field(min_length=1, max_length=256)] | None = None

    def contract(self) -> dict[str, Any] | None:
        """By its kind what it says. Raises `Refusal` where that is missing."""
        match self.type:
            case "text":
                return None
            case "json_object":
                return {"schema": {"type": "object"}}
            case "json_schema":
                said, kind = self.json_schema and self.json_schema.schema_, "schema"
            case "regex" | "choice":
                said, kind = getattr(self, self.type), self.type
        if said is None:
            raise Refusal(400, f"a response_format of type {self.type} needs {self.type} beside it", param=f"response_format.{self.type}")
        if (size := len(json.dumps(said))) > LONGEST_FORMAT:
            raise Refusal(
                400, f"a response_format has {size:,} characters, but at most {LONGEST_FORMAT:,} are read", param="response_format"
            )
        return {kind: said}


class StreamOptions(Body):
    include_usage: bool = False
    include_obfuscation: bool | None = None


class Ignored(Body):
    """What changes nothing of an answer here."""

    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None


class Sampled(Ignored):
    """How an answer is drawn; what is not given is the model's own."""

    model: Name
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    stop: str | Annotated[list[Short], Field(max_length=16)] | None = None
    seed: Annotated[int, Field(ge=-SEEDS, lt=2 * SEEDS)] | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    typical_p: Annotated[float, Field(gt=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: (
        Annotated[dict[Annotated[str, Field(pattern=r"^\d{1,9}$")], Annotated[float, Field(ge=-100, le=100)]], Field(max_length=1024)]
        | None
    ) = None
    response_format: Format | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    def settings(self) -> dict[str, Any]:
        """Those of sampling that are given, by our names."""
        given = {name: getattr(self, name) for name in SETTINGS if getattr(self, name) is not None}
        if self.logit_bias:
            given["logit_bias"] = [(int(token), bias) for token, bias in self.logit_bias.items()]
        if self.seed is not None:
            given["seed"] = self.seed % 2**64
        if self.stop:
            given["stop"] = [self.stop] if isinstance(self.stop, str) else self.stop
        return given


SETTINGS = ("temperature", "top_p", "top_k", "min_p", "typical_p", "repetition_penalty", "presence_penalty", "frequency_penalty")


class Part(Loose):
    type: str
    text: str | None = None


class Function(Loose):
    name: str
    arguments: str | dict[str, Any] = ""


class Call(Loose):
    function: Function


class Message(Loose):
    role: str
    content: str | list[Part] | None = None
    tool_calls: list[Call] | None = None
    function_call: Function | None = None


class Tool(Loose):
    type: Literal["function"]
    function: dict[str, Any]


class Chat(Sampled):
    """https://platform.openai.com/docs/api-reference/chat/create"""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=TOP)] | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    modalities: list[Literal["text"]] | None = None

    def conversation(self) -> list[dict[str, Any]]:
        """The messages as plain objects."""
        try:
            return [message.model_dump(exclude_none=True) for message in self.messages]
        except ValueError:  # pydantic's own limit
            raise RecursionError from None


class Completion(Sampled):
    """https://platform.openai.com/docs/api-reference/completions/create"""

    prompt: str | Annotated[list[str] | list[int] | list[list[int]], Field(min_length=1)] = ""
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=TOP)] | None = None
    best_of: int | None = None
    suffix: None = None

    def prompts(self) -> Sequence[str | list[int]]:
        """One or several, of text or of tokens."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        return [self.prompt] if isinstance(self.prompt[0], int) else self.prompt  # type: ignore[list-item]


class Embedding(Ignored):
    """https://platform.openai.com/docs/api-reference/embeddings/create"""

    model: Name
    input: str | Annotated[list[str], Field(min_length=1)]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None


Pair = Annotated[list[str], Field(min_length=2, max_length=2)]


class Classify(Body):
    """Texts, or pairs of texts, for a classifier; with `explain` each word's weight is told too."""

    model: Name
    input: str | Annotated[list[str | Pair], Field(min_length=1)]
    explain: bool = False


def sentence(wrong: dict[str, Any], known: Sequence[str]) -> Refusal:
    """What pydantic found wrong first, as a refusal; nothing of what was sent is repeated but the names of fields."""
    place = [str(part) for part in wrong["loc"] if part != "body"]
    name = ".".join(place[:4])[:100]
    match wrong["type"]:
        case "json_invalid":
            return Refusal(
                400, 'the body is no JSON: send an object such as {"model": "NAME"} with the header Content-Type: application/json'
            )
        case "extra_forbidden":
            return Refusal(400, f"{name} is no parameter of this route{did_you_mean(name, known)}", "unknown_parameter", name)
        case "missing" if name:
            return Refusal(400, f"{name} is missing", "missing_parameter", name)
    said = wrong["msg"][:1].lower() + wrong["msg"][1:]
    return Refusal(400, f"{name or 'the body'}: {said}", "invalid_parameter", name or None)
