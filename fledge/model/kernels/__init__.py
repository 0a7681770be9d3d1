"""Parts of the model in one pass over memory each, where a compiler has built them; plainly elsewhere.

Inside `used()` the functions here take, on a CPU, the kernels of the C++ beside this for what those can do; on a GPU torch's
compiler makes blocks and losses of a training step. Everywhere else, and for everything else, they are the plain PyTorch that both are
checked against.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import CDLL, byref
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn import functional as F

from fledge.model.kernels import functions
from fledge.model.kernels.checks import disagreements
from fledge.model.kernels.functions import Ranges
from fledge.model.kernels.library import library
from fledge.model.kernels.structures import Matrix

__all__ = [
    "Ranges",
    "affine",
    "affine_by_inputs",
    "affine_by_weight",
    "attend",
    "available",
    "compiled",
    "compiling",
    "cross_entropy",
    "dropout",
    "fusible_cross_entropy",
    "gated_silu",
    "gelu",
    "layer_norm",
    "linear",
    "rms_norm",
    "stepping",
    "tiles",
    "turn",
    "turn_heads",
    "used",
    "working",
]

NARROW = 512  # inputs or outputs below which a map is faster by a copy in bf16 (docs/decisions/0021)
FEW = 64  # rows up to which a matrix is multiplied row by row as it comes from memory

_in_use: CDLL | None = None
_compiling = False


@cache
def _sound() -> CDLL | None:
    """The kernels, unless they compute anything else than the plain lines."""
    kernels = library()
    with torch.inference_mode(False):  # gradients are compared too
        wrong = disagreements(kernels) if kernels is not None else []
    if wrong:
        warnings.warn(f"the compiled kernels are not used, for they compute another {', '.join(wrong)} than PyTorch", stacklevel=2)
    return None if wrong else kernels


def available(device: str = "cpu") -> bool:
    """Whether this machine has them for a device; on a CPU builds and checks the kernels where it can and has not yet."""
    if torch.device(device).type == "cpu":
        return _sound() is not None
    return find_spec("triton") is not None


@contextmanager
def used(wanted: bool = True, device: str = "cpu") -> Iterator[None]:
    """Inside, what was built for the device does what it can, if this machine has it."""
    global _in_use, _compiling
    before, gpu = (_in_use, _compiling), torch.device(device).type == "cuda"
    _in_use, _compiling = _sound() if wanted and not gpu else None, wanted if gpu else _compiling
    try:
        yield
    finally:
        if _compiling and not before[1]:
            torch.compiler.reset()  # what was made for this model's sizes would hold back another's
        _in_use, _compiling = before


def compiling() -> bool:
    """Whether torch's compiler makes the pieces of a training step."""
    return _compiling


@cache
def compiled(function: Callable) -> Callable:
    """A function of tensors as torch's compiler makes it, for each of the shapes that it is called with."""
    for common in ("TensorFloat32 tensor cores", "The .grad attribute of a Tensor that is not a leaf"):
        warnings.filterwarnings("ignore", common, UserWarning)  # fp32 is meant where it is asked for; the other is of torch's own code
    return torch.compile(function)


def working(x: Tensor) -> torch.dtype:
    """The type of matrix products with `x`: autocast's where it is on."""
    kind = x.device.type
    if x.dtype != torch.float32 or kind == "meta" or not torch.is_autocast_enabled(kind):
        return x.dtype
    return torch.get_autocast_dtype(kind)


def _kernels(x: Tensor, weight: Tensor | None = None) -> CDLL | None:
    """The kernels, for arrays on the CPU in the two types that they know; weights are fp32."""
    fits = x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16)
    return _in_use if fits and (weight is None or weight.dtype == torch.float32) else None


def fit(x: Tensor) -> bool:
    """Whether kernels are in use for an array of this type and place."""
    return _kernels(x) is not None


def stepping(x: Tensor) -> CDLL | None:
    """The kernels for few rows without gradients, where they are in use and matrix products with `x` are of its own type."""
    return None if torch.is_grad_enabled() or working(x) != x.dtype else _kernels(x)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, scales: Tensor | None = None) -> Tensor:
    """`x Wᵀ + b` of x (..., inputs); a kernel, which takes few rows without gradients, gives it in fp32.

    With `scales` (outputs,) in fp32 the weight is int8, each row times its scale. The kernel's sums are the same, bit for bit, for any
    number of rows and threads.
    """
    rows, kind = x.numel() // x.shape[-1], x.dtype if scales is None else torch.int8
    kernels = stepping(x) if rows <= FEW and weight.dtype == kind and weight.is_contiguous() else None
    if kernels is not None:
        out = x.new_empty(*x.shape[:-1], len(weight), dtype=torch.float32)
        functions.call(kernels, "linear", x.dtype, byref(Matrix.of(weight, bias, scales)), rows, x.contiguous(), out)
        return out
    if scales is None:
        return affine(x, weight, bias)
    made = F.linear(x, weight.to(x.dtype)) * scales.to(x.dtype)  # whole numbers up to 127 are exact in each type
    return made if bias is None else made + bias


@cache
def _lent(kernels: CDLL) -> bool:
    """Whether this process has the processor's tile unit."""
    return bool(kernels.tiles_lent())


def tiles(x: Tensor, weight: Tensor) -> CDLL | None:
    """The kernels, where they multiply x in bf16 by a weight in fp32, of which they make no copy, on the processor's tile unit."""
    if _in_use is None or x.dtype != torch.bfloat16 or weight.dtype != torch.float32:
        return None
    return _in_use if x.device.type == "cpu" and weight.is_contiguous() and _lent(_in_use) else None


def affine(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`x Wᵀ + b` of x (..., inputs), in its type or autocast's."""
    kernels = tiles(x, weight)
    return F.linear(x, weight, bias) if kernels is None else functions.Linear.apply(kernels, x, weight, bias, min(weight.shape) < NARROW)


def affine_by_inputs(grad: Tensor, weight: Tensor) -> Tensor:
    """The gradient of `affine` by x, of its own grad (rows, outputs)."""
    kernels = tiles(grad, weight)
    return grad @ weight if kernels is None else functions.by_inputs(kernels, grad, weight)


def affine_by_weight(grad: Tensor, x: Tensor, weight: Tensor, total: Tensor | None = None) -> Tensor:
    """The gradient of `affine` by the weight, of its own grad (rows, outputs), in fp32 at least; added to a total where there is one."""
    if (kernels := tiles(grad, weight)) is not None:
        return functions.by_weight(kernels, grad, x, total)
    if total is not None and grad.dtype == total.dtype:
        return total.addmm_(grad.T, x)
    made = grad.T @ x
    return made.to(torch.promote_types(made.dtype, torch.float32)) if total is None else total.add_(made)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`x / √(mean(x²) + eps) · weight`, over the last dimension; a kernel gives it in the type that matrix products take."""
    kernels = _kernels(x, weight)
    if kernels is None or x.dtype != torch.float32:
        return _rms_norm(x, weight, eps)
    return functions.RmsNorm.apply(kernels, x, weight, eps, working(x))


def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """torch's, in the wider of both types, which it computes in anyway, but with a warning to the user."""
    exact = torch.promote_types(x.dtype, weight.dtype)
    return F.rms_norm(x.to(exact), weight.shape, weight.to(exact), eps).to(x.dtype)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """`(x − mean(x)) / √(variance(x) + eps) · weight + bias`, over the last dimension; a kernel gives it as `rms_norm` does."""
    kernels = _kernels(x, weight)
    if kernels is None or x.dtype != torch.float32:
        return F.layer_norm(x, weight.shape, weight, bias, eps)
    return functions.LayerNorm.apply(kernels, x, weight, bias, eps, working(x))


def gated_silu(gate: Tensor, up: Tensor) -> Tensor:
    """`silu(gate) · up`."""
    kernels = _kernels(gate)
    return F.silu(gate) * up if kernels is None else functions.GatedSilu.apply(kernels, gate, up)


def gelu(x: Tensor, tanh: bool = False) -> Tensor:
    """`x · Φ(x)` (Hendrycks and Gimpel, 2016, arXiv:1606.08415), or its approximation by a hyperbolic tangent."""
    kernels = _kernels(x)
    if kernels is None:
        return F.gelu(x, approximate="tanh" if tanh else "none")
    return functions.Gelu.apply(kernels, x, "gelu_tanh" if tanh else "gelu")


def turn(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """(..., length, size): the first half of each vector and the second as the two coordinates of points that turn; rounded once."""
    first, second = x.chunk(2, -1)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), -1).to(x.dtype)


def turn_heads(x: Tensor, weight: Tensor | None, eps: float, angles: tuple[Tensor, Tensor] | None) -> Tensor:
    """Heads (batch, length, heads, size), normalised by `weight` and turned by the angles, as (batch, heads, length, size).

    The angles come as cosines and sines, (1 or batch, 1, length, size / 2) in fp32.
    """
    kernels = _kernels(x, weight)
    if kernels is not None:
        return functions.TurnHeads.apply(kernels, x, weight, *(angles or (None, None)), eps)
    x = (x if weight is None else _rms_norm(x, weight, eps)).transpose(1, 2)
    return x if angles is None else turn(x, *angles)


def attend(q: Tensor, k: Tensor, v: Tensor, ranges: Ranges, dropped: float = 0.0) -> Tensor:
    """Attention where each query sees the keys of a range, for arrays that `fit`; a share of the weights is `dropped`."""
    kernels, scale = _kernels(q), q.shape[-1] ** -0.5
    assert kernels is not None
    tiles = q.dtype == torch.bfloat16 and not dropped and _lent(kernels)
    return functions.Attend.apply(kernels, q, k, v, ranges, scale, tiles, dropped, _seed() if dropped else 0)


def dropout(x: Tensor, share: float) -> Tensor:
    """A share of the numbers zero, the others larger by as much (Srivastava et al., 2014); a kernel draws one seed for all of them."""
    kernels = _kernels(x) if share else None
    return F.dropout(x, share) if kernels is None else functions.Dropout.apply(kernels, x, share, _seed())


def _seed() -> int:
    """Of what a kernel draws, from torch's own generator: a checkpoint that has its state has all."""
    return int(torch.randint(2**62, ()))


def cross_entropy(scores: Tensor, labels: Tensor) -> Tensor:
    """The summed cross-entropy of scores (n, words) and labels (n,); the scores become its gradient by them, in place.

    The sum is fp32 (fp64 for fp64).
    """
    kernels = _kernels(scores)
    if kernels is not None:
        return torch.tensor(functions.call(kernels, "cross_entropy", scores.dtype, scores, labels, *scores.shape))
    if _compiling:
        return compiled(fusible_cross_entropy)(scores, labels)
    log_chances = torch.log_softmax(scores.to(torch.promote_types(scores.dtype, torch.float32)), dim=-1)
    loss = -log_chances.gather(1, labels[:, None]).sum()
    scores.copy_(log_chances.exp_().scatter_add_(1, labels[:, None], log_chances.new_full((len(labels), 1), -1.0)))
    return loss


def fusible_cross_entropy(scores: Tensor, labels: Tensor) -> Tensor:
    """The same with a comparison where a scatter would keep a compiler from making it in two passes over the scores."""
    exact = scores.to(torch.promote_types(scores.dtype, torch.float32))
    total = exact.logsumexp(-1, keepdim=True)
    loss = (total - exact.gather(1, labels[:, None])).sum()
    hit = torch.arange(scores.shape[1], device=scores.device) == labels[:, None]
    scores.copy_((exact - total).exp() - hit.to(exact.dtype))
    return loss
