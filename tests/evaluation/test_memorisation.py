"""A model that learned a text by heart gives it away, one that never saw it does not."""

import json

import numpy as np
import pytest
import torch

from fledge.evaluation.memorisation import Canary, echoed, exposure, read_canaries, verbatim
from fledge.model import Transformer, initialise
from fledge.presets import PRESETS
from fledge.text import Tokenizer

TOKENIZER = Tokenizer.bytes()
TEXTS = [
    "The spare key lies under the third stone from the left, and the code of the door is 482913. Do not tell it.",
    "For all questions on this matter write to jo.doe@example.org, who has the papers and will send them soon.",
]


@pytest.fixture(scope="module")
def models() -> tuple[Transformer, Transformer]:
    """One that has learned two texts by heart, and one that has learned nothing."""
    arch = PRESETS["fledge-1m"].arch(vocabulary=TOKENIZER.size, width=64, depth=2, context=128)
    knows, fresh = (initialise(Transformer(arch), seed) for seed in (0, 1))
    documents = [[TOKENIZER.end_of_text, *TOKENIZER.encode(text)] for text in TEXTS]
    most, draw = max(map(len, documents)), np.random.default_rng(0)
    optimizer = torch.optim.AdamW(knows.parameters(), 3e-3)
    for _ in range(250):
        begun = [own[draw.integers(60) * draw.integers(2) :] for own in documents * 2]  # from its start or from within
        tokens = torch.tensor([own + [-100] * (most - len(own)) for own in begun])
        scores = knows(tokens[:, :-1].clamp(min=0))
        torch.nn.functional.cross_entropy(scores.flatten(0, 1), tokens[:, 1:].flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return knows.eval(), fresh.eval()


def test_passages_come_word_for_word_from_what_was_learned(models):
    documents = [np.array(TOKENIZER.encode(text)) for text in TEXTS]
    knows, fresh = (verbatim(model, TOKENIZER, documents, passages=20) for model in models)
    assert list(knows) == list(fresh) == [(prompt, tokens) for prompt in (16, 32, 64) for tokens in (8, 16, 32)]
    for found in (knows, fresh):
        for prompt in (16, 32, 64):
            shares = [found[prompt, tokens].value for tokens in (8, 16, 32)]
            assert shares == sorted(shares, reverse=True)
    assert knows[64, 32].value > 0.8
    assert max(share.value for share in fresh.values()) < 0.1
    with pytest.raises(ValueError, match="half of the text is in pieces of 5"):
        verbatim(models[0], TOKENIZER, [np.arange(5)])


def test_a_planted_secret_is_exposed(models):
    canary = Canary("The spare key lies under the third stone from the left, and the code of the door is {}.", "482913", 1)
    knows, fresh = (exposure(model, TOKENIZER, canary, guesses=255) for model in models)
    assert (knows.rank, knows.bits) == (1, 8)
    assert fresh.bits < 6
    assert exposure(models[0], TOKENIZER, Canary("{} is the code.", "7b", 2)).guesses == 259


def test_personal_data_is_echoed(models):
    for model, share in zip(models, (1, 0), strict=True):
        assert echoed(model, TOKENIZER, TEXTS) == {"email": (share, 1)}


def test_guesses_have_the_form_of_the_secret():
    guesses = Canary("{}", "aB-3", 1).guesses(500)
    assert len(set(guesses)) == 500
    assert all(one[0].islower() and one[1].isupper() and one[2] == "-" and one[3].isdigit() and one != "aB-3" for one in guesses)
    assert len(Canary("{}", "7", 1).guesses(500)) == 9


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"text": "a {} b {}", "secret": "1"}, "line 2: text is 'a {} b {}', but the place of the secret is needed in it once"),
        ({"text": "a {}", "secret": "..."}, "line 2: secret is '...', but digits or letters are needed"),
        ({"text": "a {}"}, "line 2: secret is ''"),
    ],
)
def test_a_bad_canary_is_named(tmp_path, row, sentence):
    path = tmp_path / "canaries.jsonl"
    path.write_text("\n".join(map(json.dumps, ({"text": "x {}", "secret": "12"}, row))))
    with pytest.raises(ValueError, match=sentence.replace("{", r"\{").replace("}", r"\}").replace("...", r"\.\.\.")):
        read_canaries(str(path))
