"""How hard a text is: counting tells easy from hard, and what comes again from what does not."""

import random

import pytest

from fledge.data.documents import Document
from fledge.data.preparation import Recipe, prepare
from fledge.evaluation.difficulty import difficulty_of
from fledge.text import Tokenizer
from fledge.train.plan import Difficulty

WORDS = [f"{a}{b}{c}" for a in "bdfgklmnp" for b in "aeiou" for c in "lmnrst"]


def difficulty(folder, write) -> Difficulty:
    documents = [Document(write(random.Random(number)), "held out" if number % 4 == 0 else "train") for number in range(40)]
    return difficulty_of(prepare(documents, folder, Recipe(Tokenizer.bytes(), lambda document: document.source == "held out")))


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, Difficulty]:
    def again(draw: random.Random) -> str:
        """Names of its own, which come often."""
        return " ".join(draw.choices(["".join(draw.choices("aeioubdfgk", k=20)) for _ in range(8)], k=150))

    kinds = {
        "chance": lambda draw: "".join(chr(draw.randrange(33, 127)) for _ in range(3000)),
        "words": lambda draw: " ".join(draw.choices(WORDS, k=750)),
        "names": again,
    }
    folder = tmp_path_factory.mktemp("corpora")
    return {name: difficulty(folder / name, write) for name, write in kinds.items()}


def test_counting_finds_what_there_is_to_know(found):
    assert found["chance"].ngrams == pytest.approx(6.55, rel=0.1)  # log2 of 94
    assert found["words"].ngrams == pytest.approx(8.08 / 4, rel=0.2)  # log2 of 270 words of three letters and a space


def test_what_comes_again_can_be_copied(found):
    assert found["chance"].copied < 0.01
    assert found["names"].copied > 0.5 > found["words"].copied
