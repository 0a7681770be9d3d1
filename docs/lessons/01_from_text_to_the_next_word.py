# %% [markdown]
# # From text to the next word
#
# A language model learns one thing: given the words so far, which word comes next? Nobody labels anything for it. This lesson
# walks the whole way once, with the same code that trains large models: text → tokens → labels that the text makes itself →
# attention → the next word. It runs in less than a minute on a laptop: `python docs/lessons/01_from_text_to_the_next_word.py`.

# %%
import math

import torch

from fledge.arch import parameter_count
from fledge.model import Transformer, initialise
from fledge.presets import qwen3
from fledge.text import Tokenizer

# %% [markdown]
# ## Text
#
# Our text is a little world in which grammar decides the next word: an animal is named, later "it" eats what that animal eats.
# To know the last word of a sentence one has to look back at the animal: nothing nearer tells.

# %%
FOOD = {"cow": "grass", "cat": "fish", "bee": "honey", "owl": "mice"}
COLOURS = ("red", "old", "big", "shy")
SENTENCES = [f"the {colour} {animal} sat here and it ate {food}." for colour in COLOURS for animal, food in FOOD.items()]
TEXT = "\n".join(SENTENCES)
print(TEXT[:90])

# %% [markdown]
# ## Tokens
#
# A model reads numbers. A tokenizer cuts text into pieces and gives each a number; here we let it see the bytes themselves.
# What goes in comes out again, always.

# %%
tokenizer = Tokenizer.bytes()
tokens = tokenizer.encode(SENTENCES[0])
print(tokens[:12], "...", len(tokens), "tokens for", len(SENTENCES[0]), "characters")
assert tokenizer.decode(tokens) == SENTENCES[0]

# %% [markdown]
# ## Labels
#
# The label of a token is the token after it. That is all: the text, moved by one.

# %%
examples = torch.tensor([tokenizer.encode(sentence.ljust(max(map(len, SENTENCES)))) for sentence in SENTENCES])
inputs, labels = examples[:, :-1], examples[:, 1:]
for i in range(4, 9):
    print(repr(tokenizer.decode(inputs[0, : i + 1].tolist())), "->", repr(tokenizer.decode([int(labels[0, i])])))

# %% [markdown]
# ## A model that knows nothing
#
# A transformer's shape is data (`fledge show fledge-1m` draws a larger one). With random weights every token is about equally
# likely, so the loss starts near the logarithm of the number of tokens.

# %%
arch = qwen3(width=64, depth=2, heads=4, kv_heads=4, head_size=16, vocabulary=tokenizer.size, context=64)
model = initialise(Transformer(arch), seed=1)
print(f"{parameter_count(arch):,} parameters")


def loss_of(model: Transformer) -> torch.Tensor:
    scores = model(inputs)  # (sentences, tokens, vocabulary)
    return torch.nn.functional.cross_entropy(scores.flatten(0, 1), labels.flatten())


with torch.no_grad():
    print(f"loss before: {loss_of(model):.2f}, ln {tokenizer.size} = {math.log(tokenizer.size):.2f}")

# %% [markdown]
# ## Attention
#
# Each token asks a question (its *query*), each token before it offers a *key*, and where they fit, its *value* is passed on:
# softmax(q kᵀ / √size) · v. Here are those lines, and below them the model's own, which must agree.


# %%
def attention_by_hand(queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """How much each token looks at each token up to itself: (heads, length, length)."""
    scores = queries @ keys.mT / math.sqrt(queries.shape[-1])
    later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    return scores.masked_fill(later, -math.inf).softmax(-1)


queries, keys = torch.randn(2, 4, 5, 16).unbind(0)
weights = attention_by_hand(queries, keys)
assert torch.allclose(weights.sum(-1), torch.ones(4, 5))
print(f"the third token looks at the first three: {[round(w, 2) for w in weights[0, 2].tolist()]}")

# %% [markdown]
# ## Learning
#
# A step: predict, measure, move every weight a little in the direction that makes the loss smaller. `fledge pretrain` does this
# with everything that long runs need; the heart is these four lines.

# %%
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
for step in range(150):
    loss = loss_of(model)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 30 == 0 or step == 149:
        print(f"step {step:3}: loss {loss:.3f}")

# %% [markdown]
# ## The next word
#
# Which letter comes after `it ate `? The answer stands far to the left.

# %%
model.eval()
SHADES = " ·░▒▓█"


def next_letter(prompt: str) -> str:
    with torch.no_grad():
        scores = model(torch.tensor([tokenizer.encode(prompt)]))[0, -1]
    return tokenizer.decode([int(scores.argmax())])


for animal, food in FOOD.items():
    prompt = f"the shy {animal} sat here and it ate "
    print(f"{prompt!r} -> {next_letter(prompt)!r}")
    assert next_letter(prompt) == food[0]

# %% [markdown]
# ## What self-attention looks at
#
# For that last letter, where did the model look? One line for each head of each layer; the darker, the more. At least one head
# of the last layers looks back at the animal, which is the only place that knows.

# %%
prompt = "the shy cow sat here and it ate "
looks = model.attention(torch.tensor([tokenizer.encode(prompt)]))
print(" " * 16 + prompt)
for layer, look in enumerate(looks):
    for head, row in enumerate(look[0, :, -1]):
        print(f"layer {layer} head {head}  " + "".join(SHADES[min(5, int(weight * 12))] for weight in row.tolist()))

# %% [markdown]
# The letters of the animal, and what was made of them on the way, hold the answer: without them the model cannot know.

# %%
unknown = next_letter("the shy xyz sat here and it ate ")
print(f"an animal that it never saw: {unknown!r}, a guess")
animal_at = slice(prompt.index("cow"), prompt.index(" sat") + 1)
most = max(float(look[0, head, -1, animal_at].sum()) for look in looks for head in range(look.shape[1]))
print(f"the head that looks most at the animal gives it {most:.0%} of its attention")
assert most > 0.2
