"""Texts in rows: windows cover them, pairs are framed as `transformers` does, long ones are cut on the longer side."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from fledge.data.framing import Frames, LabelledTexts, collated
from fledge.text.tokenizer import Tokenizer

BYTES = Tokenizer.bytes()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 90), st.integers(3, 30), st.booleans())
def test_windows_cover_a_text_in_order_and_overlap(length, context, framed):
    tokenizer = BYTES.framing(opening=True, closing=True) if framed else BYTES
    text = "".join(chr(33 + i) for i in range(length))
    frames = Frames([text], tokenizer, context, "windows")
    own = tokenizer.encode(text)
    rows = [frames.row(0, window).tokens.tolist() for window in range(frames.windows(0))]
    edge = int(framed)
    inner = [row[edge : len(row) - edge] for row in rows]
    assert all(len(row) <= context for row in rows)
    starts = [own.index(row[0]) for row in inner]
    assert inner == [own[start : start + len(row)] for start, row in zip(starts, inner, strict=True)]
    assert starts[0] == 0
    assert starts[-1] + len(inner[-1]) == length
    room = context - 2 * edge
    assert all(0 < after - before <= room - room // 4 for before, after in pairwise(starts))
    assert len({len(row) for row in rows}) == 1
    assert frames.beyond == (length + 2 * edge > context)


def test_each_epoch_draws_a_window_and_validation_takes_the_first():
    text = "".join(chr(33 + i) for i in range(60))
    texts = LabelledTexts(Frames([text] * 2, BYTES, 16, "windows"), np.array([0, 1]), 2, seed=3)
    firsts = {int(row[0]) for step in range(40) for batch in texts.batch_at(step) for row in batch.tokens}
    starts = {int(texts.frames.row(0, window).tokens[0]) for window in range(texts.frames.windows(0))}
    assert firsts == starts
    (batch,) = texts.in_order()
    assert batch.tokens.tolist() == [BYTES.encode(text)[:16]] * 2


@pytest.mark.parametrize("segments", [1, 2])
@pytest.mark.parametrize("framed", [True, False])
def test_pairs_are_framed_as_transformers_does(tmp_path, framed, segments):
    tokenizer = BYTES.framing(opening=framed, closing=framed, segments=segments)
    tokenizer.save(tmp_path)
    theirs: Any = transformers.AutoTokenizer.from_pretrained(tmp_path)
    pairs = [("a cat", "sleeps"), ("x", "a longer second text"), ("a first text that is long", "y")]
    for longest in (None, 20, 12):
        for first, second in pairs:
            more = {"truncation": "longest_first", "max_length": longest} if longest else {}
            expected = theirs(first, second, return_token_type_ids=True, **more)
            tokens, types = tokenizer.framed_pair(tokenizer.encode(first), tokenizer.encode(second), longest)
            assert (tokens, types) == (expected["input_ids"], expected["token_type_ids"])
    frames = Frames(pairs, tokenizer, 64)
    batch = collated([frames.row(number) for number in range(3)], np.zeros(3, np.int64), tokenizer.pad)
    assert batch.types is not None
    assert batch.types.max() == segments - 1
    assert batch.types.shape == batch.tokens.shape
    again = Tokenizer.load(tmp_path)
    assert again.pairing == tokenizer.pairing
    assert again.framed([1]) == tokenizer.framed([1])


def test_a_published_tokenizer_frames_pairs_by_its_own_template():
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, pre_tokenizers, processors

    backend = Backend(models.WordLevel({"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "a": 3, "b": 4}, "[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.add_special_tokens(["[CLS]", "[SEP]"])
    backend.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    tokenizer = Tokenizer(backend, {"eos_token": "[SEP]"})
    assert tokenizer.framed_pair([3, 3], [4]) == ([1, 3, 3, 2, 4, 2], [0, 0, 0, 0, 1, 1])
