"""Chat formats: what is trained on, equality with the Jinja template as transformers renders it, refusals."""

import copy
import random
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.text import FORMATS, RESERVED, Message, Tokenizer
from fledge.text.chat import ROLES

WORDS = ["user", "assistant", "system", "the", "cat", "sat", "mat", "3", "dogs;", "who'd\n\tdef", "f(x):\r\n", "", "", "", "return", "x"]
WORDS += ["#", "中文", "🙂", "###", "Instruction:\n"]
BLANKS = [" ", "  ", "\n", "\n\n", "\n\n\n", " \n", "\n ", "\r\n", "\t"]


def text(seed: int) -> str:
    draw = random.Random(seed)
    return "".join(draw.choice(WORDS) + draw.choice(BLANKS) for _ in range(60))


TEXTS = [*map(text, range(200)), string.printable]
LLAMA3 = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]


def with_llama3_controls(tokenizer: Tokenizer) -> Tokenizer:
    backend = copy.deepcopy(tokenizer.backend)
    backend.add_special_tokens(LLAMA3)
    return Tokenizer(backend)


MADE = {"bpe": Tokenizer.train(TEXTS, 640), "bytes": Tokenizer.bytes(), "characters": Tokenizer.characters(TEXTS)}
READY = {name: with_llama3_controls(tokenizer) for name, tokenizer in MADE.items()}

blanks = st.sampled_from([*BLANKS, "\x1c", "\u2028", "\xa0"])
words = st.lists(st.sampled_from(WORDS) | st.text(max_size=6) | blanks, max_size=8)
contents = words.map("".join).filter(lambda text: text.strip() and "<|" not in text and "<extra" not in text)


@st.composite
def conversations(draw, contents=contents):
    messages = [Message("system", draw(contents))] if draw(st.booleans()) else []
    for turn in range(draw(st.integers(1, 5))):
        messages.append(Message(ROLES[1 + turn % 2], draw(contents)))
    return messages


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """Our tokenizers, opened by transformers from the folders that `save` writes, and the templates beside them."""
    transformers = pytest.importorskip("transformers")
    opened = {}
    for kind, tokenizer in READY.items():
        folder = tmp_path_factory.mktemp(kind)
        tokenizer.save(folder)
        for name, chat in FORMATS.items():
            (folder / "chat_template.jinja").write_text(chat.template(), encoding="utf-8")
            opened[kind, name] = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
            assert opened[kind, name].chat_template == chat.template()
    return opened


def as_dicts(messages):
    return [{"role": message.role, "content": message.content} for message in messages]


def test_the_tokenizer_of_these_tests_could_merge_across_a_border():
    assert len(READY["bpe"].encode("\n\n")) == len(READY["bpe"].encode("\n\n\n")) == 1


@pytest.mark.parametrize("kind", ["bpe", "bytes"])
@pytest.mark.parametrize("name", FORMATS)
def test_the_template_renders_the_same_text_and_where_controls_part_it_the_same_tokens(theirs, kind, name):
    tokenizer, other, chat = READY[kind], theirs[kind, name], FORMATS[name]

    @given(conversations(), st.booleans())
    def same(messages, answer):
        answer = answer and messages[-1].role == "user"
        tokens = chat.encode(tokenizer, messages, answer).tokens
        text = other.apply_chat_template(as_dicts(messages), add_generation_prompt=answer, tokenize=False)
        assert text == tokenizer.decode(tokens, specials=True)
        if name in ("chatml", "llama3") or kind == "bytes":
            assert other.apply_chat_template(as_dicts(messages), add_generation_prompt=answer)["input_ids"] == tokens

    same()


@pytest.mark.parametrize("name", FORMATS)
def test_characters_render_to_the_same_tokens(theirs, name):
    alphabet = st.text(sorted(set("".join(TEXTS)) - {"<"}), min_size=1).filter(str.strip)

    @given(conversations(alphabet))
    def same(messages):
        tokens = FORMATS[name].encode(READY["characters"], messages).tokens
        assert theirs["characters", name].apply_chat_template(as_dicts(messages))["input_ids"] == tokens

    same()


@pytest.mark.parametrize("name", FORMATS)
@given(conversations())
def test_trained_are_the_answers_and_the_ends_of_their_turns_and_nothing_else(name, messages):
    tokenizer, chat = READY["bpe"], FORMATS[name]
    turns = chat.encode(tokenizer, messages)
    assert len(turns.tokens) == len(turns.trained)
    trained = [token for token, train in zip(turns.tokens, turns.trained, strict=True) if train]
    end = chat.stop_tokens(tokenizer)[0]
    assert trained == [token for m in messages if m.role == "assistant" for token in (*tokenizer.encode(m.content.strip()), end)]
    assert chat.encode(tokenizer, messages, everything=True).tokens == turns.tokens
    assert all(chat.encode(tokenizer, messages, everything=True).trained)


@pytest.mark.parametrize("name", FORMATS)
@given(conversations())
def test_an_answer_goes_on_where_the_prompt_ends(name, messages):
    """What a model sees before it answers is exactly what stood before the answer in training."""
    tokenizer, chat = READY["bpe"], FORMATS[name]
    if messages[-1].role == "user":
        messages = [*messages, Message("assistant", "yes")]
    prompt = chat.encode(tokenizer, messages[:-1], answer=True)
    whole = chat.encode(tokenizer, messages)
    assert whole.tokens[: len(prompt.tokens)] == prompt.tokens
    assert whole.trained[len(prompt.tokens)]
    assert not any(chat.encode(tokenizer, messages[:-1], answer=True).trained[-1:])


@pytest.mark.parametrize("name", FORMATS)
@given(st.lists(st.sampled_from([*RESERVED[:7], *LLAMA3, "<|spare_1|>", " ", "x", "user\n"]), min_size=1).map("".join).filter(str.strip))
def test_contents_give_no_control_tokens(name, content):
    for tokenizer in (READY["bpe"], READY["bytes"]):
        chat, controls = FORMATS[name], set(tokenizer.controls.values())
        tame, wild = ([Message("user", text), Message("assistant", text)] for text in ("tame", content))
        count = [sum(token in controls for token in chat.encode(tokenizer, messages).tokens) for messages in (tame, wild)]
        assert count[0] == count[1]


def test_formats_word_by_word():
    messages = [Message("user", " Hi? "), Message("assistant", "Yes.\n"), Message("user", "So"), Message("assistant", "End")]
    written = {name: READY["bytes"].decode(chat.encode(READY["bytes"], messages).tokens, specials=True) for name, chat in FORMATS.items()}
    opening = "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    assert written["chatml"] == (
        "<|im_start|>user\nHi?<|im_end|>\n<|im_start|>assistant\nYes.<|im_end|>\n<|im_start|>user\nSo<|im_end|>\n<|im_start|>assistant\nEnd<|im_end|>\n"
    )
    turns = [
        f"<|start_header_id|>{role}<|end_header_id|>\n\n{text}<|eot_id|>"
        for role, text in zip(2 * ROLES[1:], ("Hi?", "Yes.", "So", "End"), strict=True)
    ]
    assert written["llama3"] == "<|begin_of_text|>" + "".join(turns)
    assert written["alpaca"] == opening + (
        "### Instruction:\nHi?\n\n### Response:\nYes.<|endoftext|>\n\n### Instruction:\nSo\n\n### Response:\nEnd<|endoftext|>"
    )
    assert written["plain"] == "Hi?\nYes.<|endoftext|>So\nEnd<|endoftext|>"
    own = [Message("system", "Be brief."), *messages[:1]]
    alpaca = FORMATS["alpaca"].encode(READY["bytes"], own, answer=True).tokens
    assert READY["bytes"].decode(alpaca) == "Be brief.\n\n### Instruction:\nHi?\n\n### Response:\n"


def test_what_stops_an_answer():
    tokenizer = READY["bpe"]
    stops = {name: [tokenizer.piece(token) for token in chat.stop_tokens(tokenizer)] for name, chat in FORMATS.items()}
    assert stops == {
        "chatml": ["<|im_end|>", "<|endoftext|>"],
        "llama3": ["<|eot_id|>", "<|endoftext|>"],
        "alpaca": ["<|endoftext|>"],
        "plain": ["<|endoftext|>"],
    }
    assert [name for name, chat in FORMATS.items() if chat.stop_strings] == ["alpaca"]


U, A, S = (Message(role, "x") for role in ("user", "assistant", "system"))


@pytest.mark.parametrize(
    ("messages", "answer", "sentence"),
    [
        ([], False, "without messages"),
        ([A], False, "message 1 is the assistant's, but it is the user's turn"),
        ([U, U], False, "message 2 is the user's, but it is the assistant's turn"),
        ([S, U, A, A], False, "message 4 is the assistant's, but it is the user's turn"),
        ([U, A, S], False, "message 3 is the system's, but only message 1 can be"),
        ([S], False, "message 1, the last, is the system's"),
        ([U, A], True, "message 2, the last, is the assistant's, but a user's must stand before an answer"),
        ([U, Message("bot", "x")], False, "message 2 has the role 'bot', but a role is one of system, user, assistant"),
        ([U, Message("assistant", " \n")], False, r"message 2 \(assistant\) is empty"),
    ],
)
def test_conversations_out_of_order_are_refused_by_number(messages, answer, sentence):
    for chat in FORMATS.values():
        with pytest.raises(ValueError, match=sentence):
            chat.encode(READY["bpe"], messages, answer)


def test_a_format_says_what_a_tokenizer_lacks():
    for chat in FORMATS.values():
        for tokenizer in READY.values():
            chat.usable_with(tokenizer)
    with pytest.raises(ValueError, match=r"llama3 format needs the control token <\|begin_of_text\|>, .* use the format alpaca or plain"):
        FORMATS["llama3"].usable_with(MADE["bpe"])
    with pytest.raises(ValueError, match=r"control token <\|begin_of_text\|>"):
        FORMATS["llama3"].encode(MADE["bpe"], [U])
    with pytest.raises(ValueError, match=r"alpaca format writes .* lacks some of its characters"):
        FORMATS["alpaca"].usable_with(Tokenizer.characters(["x\n"]))


def test_an_unknown_role_stops_the_template(theirs):
    for name in FORMATS:
        with pytest.raises(Exception, match="the role of a message is one of system, user, assistant"):
            theirs["bpe", name].apply_chat_template([{"role": "user", "content": "x"}, {"role": "bot", "content": "x"}])


def test_a_format_is_data():
    assert len(set(FORMATS.values())) == 4
    assert all(chat.name == name for name, chat in FORMATS.items())
