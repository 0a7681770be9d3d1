# %% [markdown]
# # A prompt is a program
#
# A model that only continues text can be asked to do things: show it a few worked examples and leave the last one open. This is
# *few-shot* prompting; without any example it is *zero-shot*. Nothing is trained for the question, no weight changes: the examples are
# tokens before the question, and attention looks at them. This lesson raises a very small model on word puzzles and counts how much
# the examples help. Less than a minute on a laptop: `python docs/lessons/02_a_prompt_is_a_program.py`.

# %%
import json
import random
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import fledge

chance = random.Random(2)
folder = tempfile.TemporaryDirectory()
here = Path(folder.name)

# %% [markdown]
# ## Puzzles
#
# Two puzzles have a rule: a word backwards, a word in capitals. Two others have none and must be learned by heart: our words in the
# language of the owls, and in that of the herons. An entry of the dictionary is a word in English, owlish and heronish.

# %%
DICTIONARY = """
sun zoh kar, cat huv reh, pen woo ika, hat vuw cek, dog how hac, map uzu eri, red zuz rik, box vov ach,
bus ohu kei, cup woz hir, fig huh aka, gem ovo cer, hen zow ekh, ink wuh rak, jar hoz ihe, key uvu kec,
leg voh har, mud zuw eik, net owo cir, oak huz ahi, pot vuz rek, rib ozu kih, sky wov hea, tea hoh cak
"""
entries = [entry.split() for entry in DICTIONARY.split(",")]
OWLISH = {english: owlish for english, owlish, _ in entries}
HERONISH = {english: heronish for english, _, heronish in entries}
ENGLISH = list(OWLISH)
PUZZLES: dict[str, Callable[[str], str]] = {
    "backwards": lambda word: word[::-1],
    "in capitals": str.upper,
    "in owlish": OWLISH.__getitem__,
    "in heronish": HERONISH.__getitem__,
}

# %% [markdown]
# For the rules there are more than 400 words, most of them without meaning. Fifty are kept for the examination: the model reads them
# nowhere, neither forwards nor backwards. So a right answer is no memory.

# %%
CONSONANTS, VOWELS = "bdlmnprstv", "aeiou"
words = [a + b + c for a in CONSONANTS for b in VOWELS for c in CONSONANTS if a != c]
words = [word for word in words if not {word, word[::-1]} & {*ENGLISH}]
held_out = chance.sample(words, 50)
known = [word for word in words if not {word, word[::-1]} & {*held_out}]


def line(puzzle: str, word: str) -> str:
    return f"{word} -> {PUZZLES[puzzle](word)}"


def pool(puzzle: str) -> Sequence[str]:
    return ENGLISH if puzzle.endswith("ish") else known


# %% [markdown]
# ## A text of puzzles
#
# Every document holds five lines of one puzzle, and no line says which: whoever wants to predict the next letters has to find out from
# the lines above. That is all the teaching there is; the model just learns to continue text.

# %%
documents = []
for _ in range(6000):
    puzzle = chance.choice(list(PUZZLES))
    documents.append("\n".join(line(puzzle, word) for word in chance.sample(pool(puzzle), 5)))
corpus = here / "puzzles.jsonl"
corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents), encoding="utf-8")
print(documents[0], documents[1], sep="\n\n")

# %% [markdown]
# ## Pretraining
#
# One token for each letter, two layers, next-letter prediction. `fledge pretrain puzzles.jsonl --out model --arch fledge-1m ...` does
# the same.

# %%
shape = ["arch.width=64", "arch.depth=2", "arch.heads=2", "arch.head_size=32", "arch.mlp=128", "arch.context=64"]
training = ["batch.rows=32", "batch.context=64", "optimizer.rate=1e-2"]
raised = fledge.pretrain(
    [str(corpus)], out=here / "model", arch="fledge-1m", steps=280, tokenizer="characters", validation=0.01, set=[*shape, *training],
    prompt="tap -> pat\nbed ->",
)  # fmt: skip
print(raised)
model = fledge.load(here / "model")

# %% [markdown]
# ## The examination
#
# A prompt is a number of examples, then the word, left open. The answer is greedy (temperature 0) and ends with its line.

# %%
SHOTS = (0, 1, 3)


def prompt(examples: list[str], word: str) -> str:
    return "\n".join([*examples, f"{word} ->"])


def accuracy(puzzle: str, shots: int) -> float:
    """The share of words that the model answers as the puzzle wants, each after its own examples."""
    asked = ENGLISH if puzzle.endswith("ish") else held_out
    shown = [chance.sample([other for other in pool(puzzle) if other != word], shots) for word in asked]
    prompts = [prompt([line(puzzle, other) for other in others], word) for others, word in zip(shown, asked, strict=True)]
    answers = model.generate(prompts, max_tokens=8, temperature=0.0, stop=["\n"])
    return sum(answer.strip() == PUZZLES[puzzle](word) for answer, word in zip(answers, asked, strict=True)) / len(asked)


scores = {puzzle: [accuracy(puzzle, shots) for shots in SHOTS] for puzzle in PUZZLES}
mean = [sum(column) / len(PUZZLES) for column in zip(*scores.values(), strict=True)]
print(f"{'':<14}" + "".join(f"{f'{shots}-shot':>8}" for shots in SHOTS))
for puzzle, row in {**scores, "all": mean}.items():
    print(f"{puzzle:<14}" + "".join(f"{share:8.0%}" for share in row))

# %% [markdown]
# Without an example nobody could know which puzzle is meant: the model picks one of the two that fit the word, and is right about half
# of the time. One example says which, and from then on it mostly answers right.
#
# ## The same from the command line
#
# `fledge generate MODEL PROMPT --shots FILE` writes such a prompt: the examples stand in a file, one a line.

# %%
shots = here / "shots.jsonl"
question = held_out[0]
for puzzle in PUZZLES:
    examples = chance.sample(pool(puzzle), 3)
    shots.write_text("".join(json.dumps({"input": word, "output": PUZZLES[puzzle](word)}) + "\n" for word in examples), encoding="utf-8")
    asked = "owl" if puzzle.endswith("ish") else question
    answer = fledge.generate(str(here / "model"), asked, shots=shots, temperature=0.0)
    print(f"fledge generate model {asked} --shots shots.jsonl   # {', '.join(line(puzzle, word) for word in examples)}\n{answer.strip()}")
    by_hand = model.generate(prompt([line(puzzle, word) for word in examples], asked), temperature=0.0, stop=["\n"])
    assert answer == by_hand

# %% [markdown]
# The owl is in no dictionary of ours: a prompt chooses among what the weights know, it adds nothing to them. For the same reason
# examples of a puzzle that the model never met do not help. Large models seem to learn any puzzle from a prompt because
# they have read so many kinds.

# %%
PUZZLES["doubled"] = lambda word: word + word
print(f"doubled, which it never met: {accuracy('doubled', 0):.0%} with no example, {accuracy('doubled', 3):.0%} with three")
zero, one, three = mean
print(f"all four that it met: {zero:.0%} with no example, {one:.0%} with one, {three:.0%} with three")
folder.cleanup()
assert three > max(0.85, zero + 0.3)
