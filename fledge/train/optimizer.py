"""Gradients become better weights: which parameters get which rate and weight decay, AdamW, Muon, clipping."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from fledge.model import query_shares
from fledge.train import run
from fledge.train.parallel.spread import Alone, spread_of

# (Bernstein/Jordan quintic) coefficients that bring every singular value near 1 in five rounds: kellerjordan.github.io/posts/muon
QUINTIC = (3.4445, -4.7750, 2.0315)
ROUNDS = 5


def _uncompiled(*methods: Any) -> None:
    """Let torch's methods run as they are: to keep its compiler out of them it would load it, for 2 s of each start."""
    for method in methods:
        if (plain := getattr(method, "__wrapped__", None)) is not None:
            plain.__dynamo_disable = plain


_uncompiled(torch.optim.Optimizer.add_param_group, torch.optim.Optimizer.zero_grad)


def kinds(model: nn.Module) -> dict[str, dict[str, nn.Parameter]]:
    """The trained parameters by name: `matrices` inside the blocks, `embeddings` (words, positions, head), `vectors` (norms, biases)."""
    groups: dict[str, dict[str, nn.Parameter]] = {"matrices": {}, "embeddings": {}, "vectors": {}}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            vector = parameter.ndim < 2 or name.endswith("bias")  # experts have a row of biases each
            kind = "vectors" if vector else "matrices" if ".blocks." in name else "embeddings"
            groups[kind][name] = parameter
    if not any(groups.values()):
        raise ValueError("no parameter of this model is trained: unfreeze at least its head")
    return groups


class Optimizer:
    """One or two of torch's optimisers over named parameters, stepped as one.

    | kind       | AdamW                              | Muon                        |
    |------------|------------------------------------|-----------------------------|
    | matrices   | rate, weight decay                 | Muon: rate, weight decay    |
    | embeddings | rate, weight decay where asked for | AdamW: adamw_rate, no decay |
    | vectors    | rate, no decay                     | AdamW: adamw_rate, no decay |

    Queries whose scores nothing scales (T5) go at their share of the rate (`query_shares`), as if the scale stood outside of them.
    """

    def __init__(self, model: nn.Module, recipe: run.AdamW | run.Muon):
        self.spread = spread_of(model)
        self.trained = {name: parameter for group in kinds(model).values() for name, parameter in group.items()}
        groups = {kind: {name: self.spread.local(p) for name, p in group.items()} for kind, group in kinds(model).items()}
        self.names: dict[Tensor, str] = {own: name for group in groups.values() for name, own in group.items()}
        self.clip = recipe.clip
        self.parts: list[AdamW | Muon] = []
        matrices = list(_by_share(groups["matrices"], query_shares(model), recipe.rate, recipe.weight_decay))
        other, on_embeddings = recipe.rate, recipe.weight_decay
        if isinstance(recipe, run.Muon):
            other, on_embeddings = recipe.adamw_rate, 0.0
            if matrices:
                self.parts.append(Muon(matrices, recipe.momentum, self.names, self.spread))
            matrices = []
        elif not recipe.decay_embeddings:
            on_embeddings = 0.0
        decays = [("embeddings", on_embeddings), ("vectors", 0.0)]
        rest = [{"params": list(groups[kind].values()), "lr": other, "weight_decay": decay} for kind, decay in decays if groups[kind]]
        if table := matrices + rest:
            self.parts.append(AdamW(table, recipe.betas, recipe.eps))
        self.rates = [[group["lr"] for group in part.param_groups] for part in self.parts]

    def set_rates(self, factor: float) -> float:
        """Give every group `factor` of its rate; returns the first group's."""
        for part, rates in zip(self.parts, self.rates, strict=True):
            for group, rate in zip(part.param_groups, rates, strict=True):
                group["lr"] = rate * factor
        return self.parts[0].param_groups[0]["lr"]

    def collect(self) -> None:
        """Take over the gradients once all backward passes of a step are done, from other ranks too."""
        for own, name in self.names.items():
            gradient = self.trained[name].grad
            if own is not self.trained[name]:
                own.grad = None if gradient is None else self.spread.local(gradient)
        self.spread.complete(self.gradients())

    def gradients(self) -> dict[str, Tensor]:
        """What lies here of each gradient that there is."""
        return {name: own.grad for own, name in self.names.items() if own.grad is not None}

    def norm(self) -> Tensor:
        """The norm of all gradients together."""
        return self.spread.norm(self.gradients())

    def step(self, norm: float) -> None:
        """Clip the gradients, whose norm is `norm`, and move the weights."""
        excess = norm / self.clip if self.clip and norm > self.clip else 1.0
        for part in self.parts:
            part.step(excess)

    def average(self, share: float) -> None:
        """Move the mean of each weight by this share of what lies between it and the weight; the first begins there."""
        for parameter, state in self._states():
            if "mean" in state:
                state["mean"].lerp_(parameter.detach(), share)
            else:
                state["mean"] = parameter.detach().clone()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the weights are their means, where they have them."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for parameter, state in self._states():
            if "mean" in state:
                weight = parameter.clone()
                parameter.copy_(state["mean"])
                state["mean"].copy_(weight)

    def _states(self) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Each trained parameter with its state."""
        for part in self.parts:
            for group in part.param_groups:
                for parameter in group["params"]:
                    yield parameter, part.state[parameter]

    def zero_grad(self) -> None:
        for part in self.parts:
            part.zero_grad()
        for parameter in self.trained.values():
            parameter.grad = None

    def tensors(self) -> dict[str, Tensor]:
        """The whole state as flat names, `<parameter>/<what>`."""
        return {
            f"{self.names[p]}/{what}": tensor for part in self.parts for p, state in part.state.items() for what, tensor in state.items()
        }

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take over a state that `tensors()` gave; nothing is changed when it does not fit.

        Raises `ValueError` naming the first tensor that belongs to no parameter or has another shape.
        """
        owners = {self.names[p]: (part, p) for part in self.parts for group in part.param_groups for p in group["params"]}
        for place, tensor in tensors.items():
            name = place.rpartition("/")[0]
            if name not in owners or (tensor.ndim and tensor.shape != owners[name][1].shape):
                raise ValueError(f"the optimiser's state holds {place} {tuple(tensor.shape)}, which fits no trained parameter")
        for part in self.parts:
            part.state.clear()
        for place, tensor in tensors.items():
            name, _, what = place.rpartition("/")
            part, parameter = owners[name]
            part.state[parameter][what] = tensor.to(parameter.device, copy=not tensor.ndim)


class AdamW(torch.optim.Optimizer):
    """torch's fused AdamW, whose own class would load torch's compiler at the first step.

    Loshchilov and Hutter, 2019, arXiv:1711.05101.
    """

    def __init__(self, groups: list[dict[str, Any]], betas: tuple[float, float], eps: float):
        super().__init__(groups, {"betas": betas, "eps": eps})
        for parameter in (p for group in self.param_groups for p in group["params"]):
            self._state(parameter)  # before there are activations, for what lies among these parts the memory that is left (decision 0021)

    @torch.no_grad()
    def step(self, excess: float = 1.0) -> None:  # pyrefly: ignore[bad-override]
        """Move the weights by the gradients divided by `excess`, in one pass over memory."""
        for group in self.param_groups:
            given = [p for p in group["params"] if p.grad is not None]
            if not given:
                continue
            scale = None if excess == 1.0 else torch.full((), excess, dtype=torch.float32, device=given[0].device)
            states = [self._state(p) for p in given]
            average, square, steps = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq", "step"))
            (beta1, beta2), gradients = group["betas"], [p.grad for p in given]
            adamw(
                given, gradients, average, square, [], steps, fused=True, amsgrad=False, beta1=beta1, beta2=beta2,
                lr=group["lr"], weight_decay=group["weight_decay"], eps=group["eps"], maximize=False, grad_scale=scale,
            )  # fmt: skip

    def _state(self, parameter: Tensor) -> dict[str, Tensor]:
        state = self.state[parameter]
        if "step" not in state:
            state["step"] = torch.zeros((), device=parameter.device)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        return state


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised, scaled to AdamW's root mean square, with decoupled weight decay.

    kellerjordan.github.io/posts/muon; the scale 0.2 √max(out, in) is that of Liu et al., 2025, arXiv:2502.16982.
    Matrices of one shape go through in one batched product.
    """

    def __init__(self, groups: list[dict[str, Any]], momentum: float, names: Mapping[Tensor, str], spread: Alone):
        super().__init__(groups, {"momentum": momentum})
        self.names, self.spread = names, spread
        for parameter in (p for group in self.param_groups for p in group["params"]):
            self._momentum(parameter)

    @torch.no_grad()
    def step(self, excess: float = 1.0) -> None:  # pyrefly: ignore[bad-override]
        """Move the weights by the gradients divided by `excess`."""
        for group in self.param_groups:
            given = [p for p in group["params"] if p.grad is not None]
            # Shape by shape takes the least memory; with other ranks all at once takes the fewest exchanges.
            for some in [given] if self.spread.size > 1 else [[given[i] for i in places] for places in _by_shape(given)]:
                moved = {self.names[p]: self._nesterov(p, group["momentum"], excess) for p in some}
                updates = self.spread.on_owners(moved, orthogonalised)
                for parameter in some:
                    update = updates[self.names[parameter]].to(parameter.dtype)
                    parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"])

    def _nesterov(self, parameter: Tensor, momentum: float, excess: float) -> Tensor:
        assert parameter.grad is not None
        gradient = parameter.grad if excess == 1.0 else parameter.grad.div_(excess)
        average = self._momentum(parameter).lerp_(gradient, 1 - momentum)
        return gradient.lerp(average, momentum)

    def _momentum(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        return state["momentum"]


def orthogonalised(updates: list[Tensor]) -> list[Tensor]:
    """Each matrix, or stack of them, orthogonal and of AdamW's size; those of one shape in one product."""
    made = list(updates)
    for places in _by_shape(updates):
        stack = torch.stack([updates[i] for i in places])
        stack = orthogonal(stack.flatten(0, -3)).view_as(stack) * (0.2 * max(stack.shape[-2:]) ** 0.5)
        for i, update in zip(places, stack, strict=True):
            made[i] = update
    return made


def orthogonal(matrices: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrices to (n, out, in) ones, roughly: singular values between 0.7 and 1.2, by Newton-Schulz.

    Inside autocast the products are bf16, which is precise enough.
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    a, b, c = QUINTIC
    for _ in range(ROUNDS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def _by_shape(tensors: Sequence[Tensor]) -> list[list[int]]:
    """The places of tensors of one shape, for each shape."""
    alike: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for i, tensor in enumerate(tensors):
        alike[tuple(tensor.shape)].append(i)
    return list(alike.values())


def _by_share(matrices: Mapping[str, Tensor], shares: Mapping[str, float], rate: float, decay: float) -> Iterator[dict[str, Any]]:
    """Groups of equal share of the rate; what decays of a weight in a step is the same for all."""
    groups = defaultdict(list)
    for name, matrix in matrices.items():
        groups[shares.get(name, 1.0)].append(matrix)
    for share, alike in sorted(groups.items(), key=lambda group: group[0] != 1):
        yield {"params": alike, "lr": rate * share, "weight_decay": decay / share}
