"""The kernel is judged by the plain lines, and what a query sees by positions and documents alone."""

import math
import random

import pytest
import torch
from torch import Tensor

from fledge import arch
from fledge.model.attention import attend, attend_plainly, weigh
from fledge.model.positions import turn
from fledge.model.view import Layout, View


def any_case(seed: int) -> tuple[arch.Attention, Layout, tuple[Tensor, Tensor, Tensor]]:
    """Grouped heads, windows, both directions, packed documents, padding on either side, keys that the queries come after."""
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    kv_heads, size, batch = rng.choice([1, 2, 3]), rng.choice([2, 4, 8]), rng.randint(1, 3)
    sees = rng.choice([(None, 0), (None, None), (0, 0), (3, 0), (2, 2), (None, 1), (5, None)])
    spec = arch.Attention(kv_heads * rng.choice([1, 2, 4]), kv_heads, size, sees)
    keys = rng.randint(1, 12)
    queries = keys if rng.random() < 0.7 else rng.randint(1, keys)
    if queries == keys and rng.random() < 0.4:
        places = torch.arange(keys)[None]
        layout = Layout(places, None, places, None)
    else:
        documents = torch.randint(-1, 3, (batch, keys), generator=generator).sort(-1, descending=rng.random() < 0.5).values
        positions = torch.stack(
            [torch.cat([torch.arange(int(n)) for n in row.unique_consecutive(return_counts=True)[1]]) for row in documents]
        )
        layout = Layout(positions[:, -queries:], documents[:, -queries:], positions, documents)
    shapes = [(spec.heads, queries), (kv_heads, keys), (kv_heads, keys)]
    q, k, v = (torch.randn(batch, heads, n, size, generator=generator, dtype=torch.float64, requires_grad=True) for heads, n in shapes)
    return spec, layout, (q, k, v)


@pytest.mark.parametrize("seed", range(150))
def test_attend_is_the_plain_lines(seed):
    spec, layout, inputs = any_case(seed)
    fast, plain = attend(*inputs, View(layout, spec)), attend_plainly(*inputs, View(layout, spec))
    torch.testing.assert_close(fast, plain)
    toward = torch.randn(plain.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    for ours, theirs in zip(torch.autograd.grad(fast, inputs, toward), torch.autograd.grad(plain, inputs, toward), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("seed", range(60))
def test_plain_lines_are_the_equation_one_query_at_a_time(seed):
    """Loops over batch, head and query; what is seen is worked out from the numbers, not from `View`."""
    spec, layout, (q, k, v) = any_case(seed)
    result = attend_plainly(q, k, v, View(layout, spec))
    left, right = spec.sees
    everywhere = torch.zeros(len(q), layout.keys.shape[1], dtype=torch.long)
    key_documents = everywhere if layout.key_documents is None else layout.key_documents
    query_documents = everywhere if layout.query_documents is None else layout.query_documents
    for b in range(len(q)):
        at, keys = layout.queries[b % len(layout.queries)].tolist(), layout.keys[b % len(layout.keys)].tolist()
        for i, position in enumerate(at):
            seen = [
                j
                for j, key in enumerate(keys)
                if (left is None or key >= position - left)
                and (right is None or key <= position + right)
                and key_documents[b, j] == query_documents[b, i]
            ]
            for head in range(spec.heads):
                group = head // (spec.heads // spec.kv_heads)
                scores = torch.stack([q[b, head, i] @ k[b, group, j] for j in seen]) / math.sqrt(spec.head_size)
                torch.testing.assert_close(result[b, head, i], scores.softmax(0) @ v[b, group, seen])


@pytest.mark.parametrize("seed", range(30))
def test_rows_of_the_weights_sum_to_one(seed):
    spec, layout, (q, k, _) = any_case(seed)
    weights = weigh(q, k, View(layout, spec))
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))


@pytest.mark.parametrize(
    ("sees", "length", "causal", "full"),
    [
        ((None, 0), 9, True, False),
        ((8, 0), 9, True, False),
        ((7, 0), 9, False, False),
        ((None, None), 9, False, True),
        ((9, None), 9, False, True),
        ((None, 1), 9, False, False),
    ],
)
def test_kernels_own_cases_are_recognised(sees, length, causal, full):
    places = torch.arange(length)[None]
    spec = arch.Attention(1, 1, 2, sees)
    view = View(Layout(places, None, places, None), spec)
    assert (view.causal, view.full) == (causal, full)
    assert (view.mask is None) == (causal or full)
    documents = torch.zeros(1, length)
    assert View(Layout(places, documents, places, documents), spec).mask is not None


def test_rotation_depends_on_distance_alone():
    """<turn(q, i), turn(k, j)> is the same for all i - j, as the paper's eq. 16 wants."""
    places = torch.arange(20)[None]
    spec = arch.Attention(1, 1, 8, positions=arch.Rope(100.0))
    view = View(Layout(places, None, places, None), spec)
    q, k = torch.randn(2, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    turned_q, turned_k = (view.rotate(x.expand(1, 1, 20, 8))[0, 0] for x in (q, k))
    products = turned_q @ turned_k.T
    for distance in range(-19, 20):
        along = products.diagonal(distance)
        torch.testing.assert_close(along, along[:1].expand_as(along), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(turned_q.norm(dim=-1), q.norm().expand(20), atol=1e-6, rtol=1e-6)


def test_known_turn():
    cos, sin = turn(torch.tensor([[0, 2]]), arch.Rope(100.0), 4)
    torch.testing.assert_close(cos[0, 0], torch.tensor([[1, 1], [math.cos(2), math.cos(0.2)]]))
    torch.testing.assert_close(sin[0, 0], torch.tensor([[0, 0], [math.sin(2), math.sin(0.2)]]))
