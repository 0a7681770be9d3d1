"""The official client, whole and streamed: every call that it makes here."""

import asyncio
import json
import math

import numpy as np
import openai
import pytest

import fledge
from tests.server.asking import Client
from tests.server.starting import KEY, Running, running

pytestmark = pytest.mark.timeout(600)  # a busy machine starts a server slowly
HELLO = [{"role": "user", "content": "Hello there"}]


@pytest.fixture(scope="module")
def server(folders):
    named = [f"{name}={folders[name]}" for name in ("base", "assistant", "classifier", "encoder")]
    with running(*named, "--adapter", folders["tuned"], "--slots", 4, "--queue", 60) as started:
        yield started


@pytest.fixture(scope="module")
def client(server: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0, timeout=60)


@pytest.fixture(scope="module")
def base(folders) -> fledge.Model:
    return fledge.load(folders["base"])


def test_models_tell_what_they_are(client, folders):
    assert [model.id for model in client.models.list()] == ["base", "tuned", "assistant", "classifier", "encoder"]
    kinds = {name: client.models.retrieve(name).model_extra["fledge"]["kind"] for name in ("base", "assistant", "classifier", "encoder")}
    assert kinds == {name: name for name in kinds}
    told = client.models.retrieve("assistant").model_extra["fledge"]
    assert told["card"] == "# An assistant\n"
    assert told["settings"] == {"temperature": 0.0}
    assert told["facts"]["trained_to"]["example"] == "Hello"
    assert str(folders["assistant"].parent) not in json.dumps(told)
    with pytest.raises(openai.NotFoundError, match="did you mean base"):
        client.models.retrieve("bas")


def test_completions_are_the_librarys(client, base):
    given = {"max_tokens": 20, "temperature": 0.7, "seed": 3}
    whole = client.completions.create(model="base", prompt="def ", **given)
    assert whole.choices[0].text == base.generate("def ", **given)
    assert whole.usage.prompt_tokens == 4
    assert whole.usage.completion_tokens <= 20
    tokens = base.tokenizer.encode("def ")
    assert client.completions.create(model="base", prompt=tokens, **given).choices[0].text == whole.choices[0].text
    greedy = {"max_tokens": 12, "temperature": 0}
    several = client.completions.create(model="base", prompt=["a", "def main", "x = "], n=2, **greedy)
    alone = [base.generate(text, **greedy) for text in ("a", "def main", "x = ")]
    assert [choice.text for choice in several.choices] == [text for text in alone for _ in range(2)]
    assert [choice.index for choice in several.choices] == list(range(6))


@pytest.mark.parametrize("marks", [None, 0, 3])
@pytest.mark.parametrize("echo", [False, True])
def test_streamed_completions_are_the_whole_ones(client, marks, echo):
    for seed in range(3):
        given = {"model": "base", "prompt": "für ", "max_tokens": 24, "seed": seed, "n": 2, "logprobs": marks, "echo": echo}
        whole = client.completions.create(**given)
        pieces = list(client.completions.create(**given, stream=True, stream_options={"include_usage": True}))
        assert pieces[-1].usage == whole.usage
        for choice in whole.choices:
            own = [piece.choices[0] for piece in pieces[:-1] if piece.choices[0].index == choice.index]
            assert "".join(piece.text for piece in own) == choice.text
            assert [piece.finish_reason for piece in own if piece.finish_reason] == [choice.finish_reason]
            if marks is not None:
                for field in ("tokens", "token_logprobs", "text_offset", "top_logprobs"):
                    joined = [value for piece in own if piece.logprobs for value in getattr(piece.logprobs, field)]
                    assert joined == getattr(choice.logprobs, field)


def test_logprobs_are_the_models(client, base):
    told = client.completions.create(model="base", prompt="def ", max_tokens=6, temperature=0, logprobs=3, echo=True).choices[0]
    marks, tokens = told.logprobs, base.tokenizer.encode("def ")
    assert marks.tokens[:4] == ["d", "e", "f", " "]
    assert marks.token_logprobs[0] is None
    expected = base.logits([tokens])[0].log_softmax(-1)
    assert marks.token_logprobs[1:4] == pytest.approx([float(expected[i, token]) for i, token in enumerate(tokens[1:])], abs=1e-4)
    best = expected[-1].topk(3).values.tolist()
    assert sorted(marks.top_logprobs[4].values(), reverse=True)[:3] == pytest.approx(best, abs=1e-4)
    for offset, name in zip(marks.text_offset, marks.tokens, strict=True):
        assert name.startswith(("bytes:", "<")) or told.text[offset:].startswith(name)
    scored = client.completions.create(model="base", prompt="def ", max_tokens=0, logprobs=3, echo=True).choices[0]
    assert scored.text == "def "
    assert scored.logprobs.token_logprobs == marks.token_logprobs[:4]


def test_conversations(client, folders):
    model = fledge.load(folders["assistant"])
    whole = client.chat.completions.create(model="assistant", messages=HELLO, max_completion_tokens=16, logprobs=True, top_logprobs=2)
    [choice] = whole.choices
    assert choice.message.content == model.chat(HELLO, max_tokens=16)
    for mark in choice.logprobs.content:
        assert len(mark.top_logprobs) == 2
        assert -math.inf < mark.logprob <= mark.top_logprobs[0].logprob + 1e-6  # greedy, but for control tokens
    seeds = [
        client.chat.completions.create(model="assistant", messages=HELLO, max_tokens=16, temperature=1, seed=seed, n=2)
        for seed in (1, 1, 2)
    ]
    texts = [[choice.message.content for choice in one.choices] for one in seeds]
    assert texts[0] == texts[1]
    assert len({text for pair in texts for text in pair}) == 3  # the second answer of seed 1 is the first of seed 2


def test_streamed_conversations_are_the_whole_ones(client):
    for seed in range(5):
        given = {"model": "assistant", "messages": HELLO, "max_tokens": 32, "temperature": 1.2, "seed": seed, "logprobs": True}
        whole = client.chat.completions.create(**given).choices[0]
        pieces = [piece.choices[0] for piece in client.chat.completions.create(**given, stream=True)]
        assert pieces[0].delta.role == "assistant"
        assert "".join(piece.delta.content or "" for piece in pieces) == whole.message.content
        assert [piece.finish_reason for piece in pieces if piece.finish_reason] == [whole.finish_reason]
        assert [mark for piece in pieces if piece.logprobs for mark in piece.logprobs.content] == whole.logprobs.content


def test_many_clients_at_once_get_what_they_get_alone(server):
    client = openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0, timeout=60)

    async def asked(number: int, stream: bool) -> str:
        given = {
            "model": ("base", "tuned")[number % 2],
            "prompt": f"{number} ",
            "max_tokens": 8 + number,
            "seed": number,
            "temperature": 1.0,
        }
        if not stream:
            return (await client.completions.create(**given)).choices[0].text
        return "".join([piece.choices[0].text async for piece in await client.completions.create(**given, stream=True)])

    async def all_of_them() -> None:
        alone = [await asked(number, False) for number in range(12)]
        for stream in (False, True):
            assert await asyncio.gather(*(asked(number, stream) for number in range(12))) == alone
        await client.close()

    asyncio.run(all_of_them())


def test_an_adapter_is_a_model_of_its_own(client, folders):
    tuned = fledge.load(folders["base"], adapters={"tuned": folders["tuned"]}).adapters["tuned"]
    given = {"prompt": "def ", "max_tokens": 12, "temperature": 0}
    said = [client.completions.create(model=name, **given).choices[0].text for name in ("base", "tuned", "base")]
    assert said[1] == tuned.generate(**given)
    assert said[0] == said[2] != said[1]


def test_answers_end_before_a_stop_string(client):
    given = {"model": "base", "prompt": "def ", "max_tokens": 40, "seed": 5, "temperature": 1.0}
    whole = client.completions.create(**given).choices[0].text
    stop = whole[4:6]
    for stops in (stop, [stop, "never there at all"]):
        cut = client.completions.create(**given, stop=stops).choices[0]
        assert cut.text == whole[: whole.index(stop)]
        assert cut.finish_reason == "stop"
        pieces = client.completions.create(**given, stop=stops, stream=True)
        assert "".join(piece.choices[0].text for piece in pieces) == cut.text


def test_tools_are_text(client):
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"place": "Bern"}'}}
    talk = [*HELLO, {"role": "assistant", "content": None, "tool_calls": [call]}, {"role": "tool", "tool_call_id": "1", "content": "sunny"}]
    with_tools = client.chat.completions.create(model="assistant", messages=talk, tools=[tool], max_tokens=4)
    without = client.chat.completions.create(model="assistant", messages=talk, tools=[tool], tool_choice="none", max_tokens=4)
    assert with_tools.choices[0].message.content is not None
    assert with_tools.usage.prompt_tokens > without.usage.prompt_tokens + len('{"name": "weather"')


def test_answers_keep_to_a_schema(client):
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2, 3]}}, "required": ["n"], "additionalProperties": False}
    named = {"type": "json_schema", "json_schema": {"name": "number", "schema": schema, "strict": True}}
    formats = {"json": named, "regex": {"type": "regex", "regex": "(ab){2,4}c"}, "choice": {"type": "choice", "choice": ["yes", "no"]}}
    for seed in range(3):
        said = {}
        for name, form in formats.items():
            given = {"model": "assistant", "messages": HELLO, "max_tokens": 100, "temperature": 1.0, "seed": seed, "response_format": form}
            said[name] = client.chat.completions.create(**given).choices[0].message.content
            pieces = client.chat.completions.create(**given, stream=True)
            assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == said[name]
        assert json.loads(said["json"])["n"] in (1, 2, 3)
        assert said["regex"] in ("ababc", "abababc", "ababababc")
        assert said["choice"] in ("yes", "no")


def test_settings_of_sampling_reach_the_engine(client, base):
    tokens = {chr(token): base.tokenizer.encode(chr(token))[0] for token in b"ab"}
    only = client.completions.create(model="base", prompt="x", max_tokens=5, logit_bias={str(tokens["a"]): 100}).choices[0].text
    assert only == "aaaaa"
    other = client.completions.create(
        model="base", prompt="x", max_tokens=8, temperature=0, logit_bias={str(number): 90 for number in tokens.values()},
        presence_penalty=2, frequency_penalty=2,
    )  # fmt: skip
    assert set(other.choices[0].text) == {"a", "b"}
    more = {"top_k": 1, "min_p": 0.1, "typical_p": 0.9, "repetition_penalty": 1.1}
    assert client.completions.create(model="base", prompt="x", max_tokens=5, extra_body=more).choices[0].text


def test_embeddings(client, folders):
    texts = ["one", "two words", "three words here"]
    expected = fledge.load(folders["encoder"]).embed(texts)
    for given in ({}, {"encoding_format": "float"}, {"encoding_format": "base64"}):
        told = client.embeddings.create(model="encoder", input=texts, **given)
        rows = [row.embedding if not isinstance(row.embedding, str) else _unpacked(row.embedding) for row in told.data]
        assert np.allclose(rows, expected, atol=1e-6)
    assert told.usage.prompt_tokens == sum(map(len, texts))
    assert len(client.embeddings.create(model="base", input="one").data[0].embedding) == 32


def _unpacked(text: str) -> list[float]:
    import base64

    return np.frombuffer(base64.b64decode(text), "<f4").tolist()


def test_classification(server, folders):
    texts = ["free prize", "see you"]
    expected = fledge.load(folders["classifier"]).predict(texts)
    ask = {"model": "classifier", "input": texts}
    told = server.web.post("/v1/classify", json=ask, headers={"Authorization": f"Bearer {KEY}"}).json()
    for row, one in zip(told["data"], expected, strict=True):
        assert row["label"] == one["label"]
        assert row["scores"] == pytest.approx(one["scores"], abs=1e-6)
    told = server.web.post("/v1/classify", json={**ask, "explain": True}, headers={"Authorization": f"Bearer {KEY}"})
    for row, text in zip(told.json()["data"], texts, strict=True):
        assert "".join(word["text"] for word in row["words"]) == text
        assert all(math.isfinite(word["weight"]) for word in row["words"])


@pytest.mark.slow
def test_a_thousand_streamed_answers_are_the_whole_ones(server):
    client, places = Client(server.url), asyncio.Semaphore(8)
    stops = (None, ["e"], ["ab", "\n"])

    async def one(number: int) -> bool:
        n = 1 + number % 2
        body = {"model": ("base", "tuned")[number % 2], "prompt": f"{number} für", "max_tokens": 1 + number % 24, "seed": number}
        body |= {"stop": stops[number % 3], "temperature": 1.0, "n": n}
        async with places:
            whole, streamed = [await client.ask("/v1/completions", {**body, "stream": stream}) for stream in (False, True)]
        assert whole is not None
        assert streamed is not None
        texts = [""] * n
        for event in streamed.streamed():
            texts[event["choices"][0]["index"]] += event["choices"][0]["text"]
        return texts == [choice["text"] for choice in whole.json()["choices"]]

    async def every() -> list[bool]:
        return await asyncio.gather(*map(one, range(1000)))

    assert all(asyncio.run(every()))
