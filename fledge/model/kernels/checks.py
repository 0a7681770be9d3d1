"""The kernels against the plain lines, values and gradients, in both types: once when they are loaded, by the tests many times."""

from collections.abc import Callable, Iterator
from ctypes import CDLL

import torch
from torch import Tensor
from torch.nn import functional as F

from fledge.model.kernels import functions
from fledge.model.kernels.functions import call

LIMITS = {torch.float32: 2e-5, torch.bfloat16: 2e-2}  # of the largest value
Inputs = tuple[Tensor | None, ...]
Case = tuple[str, Callable[..., Tensor], Callable[..., Tensor], Inputs]


def disagreements(kernels: CDLL, seed: int = 0) -> list[str]:
    """The kernels whose value or gradients differ from the plain lines by more than the type's rounding explains."""
    return [f"{name} in {str(kind)[6:]}" for kind in LIMITS for name in _wrong(kernels, seed, kind)]


def _wrong(kernels: CDLL, seed: int, kind: torch.dtype) -> Iterator[str]:
    draw = torch.Generator().manual_seed(seed)
    for name, fused, plain, inputs in cases(kernels, draw, kind):
        with torch.enable_grad():
            ours = _with_gradients(fused, inputs, kind, exact=False)
            theirs = _with_gradients(plain, inputs, kind, exact=True)
        if not all(_near(a, b, LIMITS[kind]) for a, b in zip(ours, theirs, strict=True)):
            yield name


def _with_gradients(function: Callable[..., Tensor], inputs: Inputs, kind: torch.dtype, exact: bool) -> list[Tensor]:
    """The value, then the gradient by each input, along a direction that the value's shape decides."""
    parts = [None if part is None else (part.double() if exact else part).detach().requires_grad_() for part in inputs]
    value = function(*parts)
    toward = torch.sin(torch.arange(value.numel(), dtype=torch.float64)).view(value.shape).to(kind).to(value.dtype)
    return [value.detach(), *torch.autograd.grad((value * toward).sum(), [part for part in parts if part is not None])]


def _near(ours: Tensor, theirs: Tensor, limit: float) -> bool:
    return bool((ours.double() - theirs).abs().max() <= limit * theirs.abs().max().clamp(min=1e-3))


def cases(kernels: CDLL, draw: torch.Generator, kind: torch.dtype) -> Iterator[Case]:
    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=draw))

    def normal(*shape: int, dtype: torch.dtype = kind) -> Tensor:
        return torch.randn(shape, generator=draw).to(dtype)

    if kind == torch.bfloat16 and kernels.tiles_lent():
        small = [number(1, 70), number(1, 70), number(1025, 1200)]  # which of them is long turns with the seed
        rows, inputs, outputs = (small[int(i)] for i in torch.randperm(3, generator=draw))
        weight, bias = normal(outputs, inputs).float(), normal(outputs, dtype=torch.float32)
        for shifted in (bias, None):
            yield (
                "linear",
                lambda x, w, b: functions.Linear.apply(kernels, x, w, b, False),
                F.linear,
                (normal(rows, inputs), weight, shifted),
            )

    width = 8 + number(1, 70)  # of one or two numbers the variance may be next to none, and a value next to 0 where another's is not
    x, weight = normal(number(1, 9), width, dtype=torch.float32), normal(width, dtype=torch.float32)
    yield (
        "rms_norm",
        lambda x, w: functions.RmsNorm.apply(kernels, x, w, 1e-5, kind),
        lambda x, w: F.rms_norm(x, w.shape, w, 1e-5),
        (x, weight),
    )

    x, weight, bias = (normal(*shape, dtype=torch.float32) for shape in ((number(1, 9), width), (width,), (width,)))
    for shifted in (bias, None):
        yield (
            "layer_norm",
            lambda x, w, b: functions.LayerNorm.apply(kernels, x, w, b, 1e-5, kind),
            lambda x, w, b: F.layer_norm(x, w.shape, w, b, 1e-5),
            (3 + x, weight, shifted),
        )

    batch, length, heads, size = number(1, 3), number(1, 9), number(1, 3), 2 * number(1, 20)
    x, weight = normal(batch, length, heads, size), normal(size, dtype=torch.float32)
    angles = 3 * normal(1 if number(0, 1) else batch, 1, length, size // 2, dtype=torch.float32)
    for given, turned in ((weight, True), (None, True), (weight, False)):
        cosine, sine = (angles.cos(), angles.sin()) if turned else (None, None)

        def heads_plainly(x: Tensor, w: Tensor | None = None, turned: bool = turned) -> Tensor:
            x = (x if w is None else F.rms_norm(x, w.shape, w, 1e-5)).transpose(1, 2)
            first, second = x.chunk(2, -1)
            c, s = angles.double().cos(), angles.double().sin()
            return torch.cat((first * c - second * s, second * c + first * s), -1) if turned else x

        def heads_fused(x: Tensor, w: Tensor | None = None, cosine: Tensor | None = cosine, sine: Tensor | None = sine) -> Tensor:
            return functions.TurnHeads.apply(kernels, x, w, cosine, sine, 1e-5)

        yield "turn_heads", heads_fused, heads_plainly, (x, given)

    kv_heads, group, length, size = number(1, 2), number(1, 3), number(2, 99), number(1, 70)
    rows = 1 if number(0, 1) else batch
    # The gradient of a weight that is alone is 0, but for rounding: the second query sees two keys at least.
    first = torch.stack([torch.arange(length) - number(1, length) for _ in range(rows)]).clamp(min=0)
    last = torch.stack([torch.arange(length) + 1 + number(0, 5) for _ in range(rows)]).clamp(max=length)
    places = torch.arange(length)
    seen = ((places >= first[..., None]) & (places < last[..., None]))[:, None]
    for tiles in (False, True) if kind == torch.bfloat16 and kernels.tiles_lent() else (False,):
        yield (
            "attend by tiles" if tiles else "attend",
            lambda q, k, v, tiles=tiles: functions.Attend.apply(kernels, q, k, v, (first, last), size**-0.5, tiles),
            lambda q, k, v: F.scaled_dot_product_attention(q, k, v, seen, enable_gqa=True),
            (normal(batch, kv_heads * group, length, size), normal(batch, kv_heads, length, size), normal(batch, kv_heads, length, size)),
        )

    q, k, v = (normal(batch, heads, length, length) for heads in (kv_heads * group, kv_heads, kv_heads))
    every = torch.eye(length, dtype=kind).expand_as(v)  # values that show the weights

    def dropping(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return functions.Attend.apply(kernels, q, k, v, (first, last), length**-0.5, False, 0.25, 7)

    shown = dropping(q, k, every)
    kept = (shown != 0).double() / 0.75

    def dropping_plainly(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k, v = (part.repeat_interleave(group, 1) for part in (k, v))
        scores = (q @ k.mT * length**-0.5).masked_fill(~seen, -torch.inf)
        return scores.softmax(-1) * kept @ v

    yield "attend with drop-out", dropping, dropping_plainly, (q, k, v)

    x = normal(number(1, 9), width)
    stays = (functions.drop(kernels, torch.ones_like(x), 0.25, 7) != 0).double() / 0.75
    yield "drop", lambda x: functions.Dropout.apply(kernels, x, 0.25, 7), lambda x: x * stays, (x,)

    gate, up = 3 * normal(number(1, 9), width), normal(1, width)
    yield "gated_silu", lambda g, u: functions.GatedSilu.apply(kernels, g, u), lambda g, u: F.silu(g) * u, (gate, up.expand_as(gate))

    x = 3 * normal(number(1, 9), width)
    yield "gelu", lambda x: functions.Gelu.apply(kernels, x, "gelu"), F.gelu, (x,)
    yield "gelu_tanh", lambda x: functions.Gelu.apply(kernels, x, "gelu_tanh"), lambda x: F.gelu(x, approximate="tanh"), (x,)

    scores, labels = 4 * normal(number(1, 9), 1 + width), torch.arange(9) % (1 + width)

    def loss_and_gradient(scores: Tensor) -> Tensor:
        """One line of both, so that they are compared together; of a copy, for the kernel works in place."""
        place = scores.detach().clone()
        loss = call(kernels, "cross_entropy", kind, place, labels, *scores.shape)
        return _Given.apply(scores, torch.tensor([loss]), place)

    yield "cross_entropy", loss_and_gradient, lambda s: F.cross_entropy(s, labels[: len(s)], reduction="sum")[None], (scores,)


class _Given(torch.autograd.Function):
    """A value with the gradient that is known for it."""

    @staticmethod
    def forward(ctx, x: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor):
        return ctx.saved_tensors[0] * grad_outputs[0], None, None
