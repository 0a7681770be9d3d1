"""The kernel is judged by the plain lines, and what a query sees by positions and documents alone."""

import math
import random

import pytest
import torch
from torch import Tensor

from fledge import arch
from fledge.model.attention import attend, attend_plainly, weigh
from fledge.model.positions import buckets, turn
from fledge.model.view import Layout, View


def any_case(seed: int) -> tuple[arch.Attention, Layout, tuple[Tensor, Tensor, Tensor]]:
    """Grouped heads, windows, both directions, packed documents, padding on either side, keys that the queries come after."""
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    kv_heads, size, batch = rng.choice([1, 2, 3]), rng.choice([2, 4, 8]), rng.randint(1, 3)
    sees = rng.choice([(None, 0), (None, None), (0, 0), (3, 0), (2, 2), (None, 1), (5, None)])
    scale, cap = rng.choice([None, None, 1.0, 0.3]), rng.choice([None, None, 0.7])
    spec = arch.Attention(kv_heads * rng.choice([1, 2, 4]), kv_heads, size, sees, scale=scale, soft_cap=cap)
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


def bias_and_sinks(seed: int, spec: arch.Attention, layout: Layout) -> tuple[Tensor | None, Tensor | None]:
    """By distance, and one score per head, in some of the cases."""
    rng, generator = random.Random(f"extras {seed}"), torch.Generator().manual_seed(seed)
    table = torch.randn(8, spec.heads, generator=generator, dtype=torch.float64, requires_grad=True)
    distance = (layout.keys[:, None, :] - layout.queries[:, :, None]).clamp(-3, 3) + 3
    bias = table[distance].permute(0, 3, 1, 2) if rng.random() < 0.4 else None
    sinks = torch.randn(spec.heads, generator=generator, dtype=torch.float64, requires_grad=True) if rng.random() < 0.4 else None
    return bias, sinks


@pytest.mark.parametrize("seed", range(200))
def test_attend_is_the_plain_lines(seed):
    spec, layout, inputs = any_case(seed)
    bias, sinks = bias_and_sinks(seed, spec, layout)
    fast = attend(*inputs, View(layout, spec, bias), sinks=sinks)
    plain = attend_plainly(*inputs, View(layout, spec, bias), sinks=sinks)
    torch.testing.assert_close(fast, plain)
    toward = torch.randn(plain.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    wanted = [*inputs, *(part for part in (bias, sinks) if part is not None)]
    ours, theirs = (torch.autograd.grad(result, wanted, toward, retain_graph=True) for result in (fast, plain))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("seed", range(100))
def test_plain_lines_are_the_equation_one_query_at_a_time(seed):
    """Loops over batch, head and query; what is seen is worked out from the numbers, not from `View`."""
    spec, layout, (q, k, v) = any_case(seed)
    bias, sinks = bias_and_sinks(seed, spec, layout)
    result = attend_plainly(q, k, v, View(layout, spec, bias), sinks=sinks)
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
                scores = torch.stack([q[b, head, i] @ k[b, group, j] for j in seen])
                scores = scores / math.sqrt(spec.head_size) if spec.scale is None else scores * spec.scale
                if spec.soft_cap is not None:
                    scores = spec.soft_cap * torch.tanh(scores / spec.soft_cap)
                if bias is not None:
                    scores = scores + bias[b % len(bias), head, i, seen]
                rest = 0.0 if sinks is None else sinks[head].exp()
                weights = scores.exp() / (scores.exp().sum() + rest)
                torch.testing.assert_close(result[b, head, i], weights @ v[b, group, seen])


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
    turned_q, turned_k = (view.rotate(x.expand(1, 20, 1, 8), torch.nn.Identity())[0, 0] for x in (q, k))
    products = turned_q @ turned_k.T
    for distance in range(-19, 20):
        along = products.diagonal(distance)
        torch.testing.assert_close(along, along[:1].expand_as(along), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(turned_q.norm(dim=-1), q.norm().expand(20), atol=1e-6, rtol=1e-6)


def test_known_turn():
    cos, sin = turn(torch.tensor([[0, 2]]), arch.Rope(100.0), 4)
    torch.testing.assert_close(cos[0, 0], torch.tensor([[1, 1], [math.cos(2), math.cos(0.2)]]))
    torch.testing.assert_close(sin[0, 0], torch.tensor([[0, 0], [math.sin(2), math.sin(0.2)]]))


def by_hand(distance: int, count: int, farthest: int, forward: bool) -> int:
    """The bucket of one distance as the paper's published code describes it."""
    base = 0
    if forward:
        count //= 2
        base = count if distance > 0 else 0
        distance = abs(distance)
    else:
        distance = max(0, -distance)
    exact = count // 2
    if distance < exact:
        return base + distance
    return base + min(count - 1, exact + int(math.log(distance / exact) / math.log(farthest / exact) * (count - exact)))


@pytest.mark.parametrize("forward", [True, False])
@pytest.mark.parametrize(("count", "farthest"), [(32, 128), (8, 20), (10, 50)])
def test_buckets_of_distances(count, farthest, forward):
    distances = torch.arange(-200, 201)
    found = buckets(distances, arch.DistanceBias(count, farthest), forward).tolist()
    assert found == [by_hand(int(d), count, farthest, forward) for d in distances]
    assert set(found) == set(range(count)) - ({count // 2} if forward else set())  # distance 0 is on the left side


def test_stretched_rotations_turn_slower():
    """Long waves are slowed by the factor, short ones are not, none in between turns faster than before or slower than the factor."""
    at = torch.tensor([[1]])
    plain = turn(at, arch.Rope(10_000.0), 64)
    angles = torch.atan2(plain[1], plain[0])[0, 0, 0]
    for stretch in (arch.ByWavelength(8.0, 64), arch.Yarn(8.0, 64), arch.Yarn(8.0, 64, whole=False), arch.Interpolated(8.0)):
        cos, sin = turn(at, arch.Rope(10_000.0, stretch), 64)
        share = torch.atan2(sin, cos)[0, 0, 0] / angles
        assert (share >= 1 / 8 - 1e-5).all()
        assert (share <= 1 + 1e-5).all()
        assert float(share[-1]) == pytest.approx(1 / 8, rel=1e-3)
        assert (share.diff() <= 1e-5).all()
        if not isinstance(stretch, arch.Interpolated):
            assert float(share[0]) == pytest.approx(1)
        grown = 0.1 * math.log(8) + 1 if isinstance(stretch, arch.Yarn) else 1.0
        torch.testing.assert_close((cos**2 + sin**2).sqrt(), torch.full_like(cos, grown))


def test_only_a_portion_is_turned():
    places = torch.arange(9)[None]
    spec = arch.Attention(1, 1, 8, positions=arch.Rope(100.0, portion=0.5))
    x = torch.randn(1, 9, 1, 8)
    turned = View(Layout(places, None, places, None), spec).rotate(x, torch.nn.Identity())
    assert torch.equal(turned[..., 4:], x.transpose(1, 2)[..., 4:])
    alone = arch.Attention(1, 1, 4, positions=arch.Rope(100.0))
    assert torch.equal(turned[..., :4], View(Layout(places, None, places, None), alone).rotate(x[..., :4], torch.nn.Identity()))


def test_padding_that_looks_across_sees_something():
    places, documents = torch.arange(3)[None], torch.tensor([[0, 0, -1]])
    across = Layout(places, documents, torch.arange(2)[None], torch.tensor([[0, 0]]), across=True)
    assert View(across, arch.Attention(1, 1, 2, (None, None))).allowed.all()
