"""A run that is begun on some processes and goes on on others, beside one that one process has done alone."""

import os
import signal
from pathlib import Path

import torch

from fledge.model import Transformer, initialise, shell
from fledge.train.loop import State, Stopped
from fledge.train.objective import PredictTokens
from fledge.train.optimizer import Optimizer
from fledge.train.parallel.engine import put_on
from fledge.train.parallel.spread import Spread, spread_of
from fledge.train.run import AdamW, Batch, Data, Machine, Masks, Muon, Plan, Run, Save, Stable
from fledge.train.training import train, validate
from tests.train.families import CONTEXT, FAMILIES, ODD, Steps

WAYS = [(1, 1), (2, 1), (2, 2), (3, 1), (4, 1), (4, 2), (4, 4)]  # ranks, of which so many share each layer
OPTIMIZERS = {"adamw": AdamW(rate=3e-3), "muon": Muon(rate=3e-3, adamw_rate=3e-3)}
DATA = {"decoder": Data(), "encoder": Data(objective="masked-word", noise=Masks()), "both": Data(objective="pairs")}
STOP, END = 3, 6


def losses(family: str, optimizer: str, folder: Path, tensor: int, stop: int = END) -> list[float]:
    """The loss of each step that this call trained, validations among them; it ends after `stop` steps by a signal to one rank.

    With Muon the compiled kernels take part, where there are any.
    """
    arch, found = FAMILIES[family], list[float]()
    run = Run(
        arch, DATA[family], Batch(Steps(arch).rows, 2, CONTEXT), OPTIMIZERS[optimizer], Stable(warmup=2), Plan(END),
        Save(evaluate=2, average=0.6), Machine(threads=1, tensor=tensor, kernels=optimizer == "muon"),
    )  # fmt: skip

    def look(state: State) -> None:
        found.append(state.loss)
        if state.step == stop < END and spread_of(state.model).rank == spread_of(state.model).size - 1:
            os.kill(os.getpid(), signal.SIGINT)

    def evaluate(model: Transformer) -> dict[str, float]:
        found.append(validate(model, PredictTokens(), [Steps(arch, 2).part(99), Steps(arch, 7).part(98)], run.machine)["loss"])
        return {"loss": found[-1]}

    try:
        train(run, shell(arch), Steps(arch), PredictTokens(), folder, evaluate=evaluate, after_step=[look], say=lambda sentence: None)
    except Stopped:
        assert stop < END
    return found


def gradients(name: str, tensor: int) -> tuple[float, float, dict[str, torch.Tensor]]:
    """Loss and norm of the first step, and on rank 0 every whole gradient; the model starts on the meta device.

    With both an encoder and a decoder, ranks that share layers compute activations again.
    """
    arch = (FAMILIES | ODD)[name]
    model, steps, objective = shell(arch), Steps(arch), PredictTokens(smoothing=0.1)
    spread = put_on(model, Machine(tensor=tensor, recompute=len(arch.stacks) == 2 and tensor > 1))
    optimizer = Optimizer(model, AdamW())
    parts = steps.batch_at(0, *spread.data)
    (total,) = spread.sums(sum(objective.count(part) for part in parts))
    loss = torch.zeros(())
    model.train()
    for part in parts:
        lost = objective(model, part) / total
        lost.backward()
        loss += lost.detach()
    optimizer.collect()
    loss, norm, found = spread.summed(loss), optimizer.norm(), optimizer.gradients()
    if isinstance(spread, Spread):
        found = {key: gradient for key, gradient in spread.gathered(found) if gradient is not None}
    return float(loss), float(norm), found


def all_losses(family: str, optimizer: str, folders: list[Path], tensor: int) -> list[list[float]]:
    """The same for several runs, one after the other, each to its end."""
    return [losses(family, optimizer, folder, tensor) for folder in folders]


def all_gradients(tensor: int) -> dict[str, tuple[float, float, dict[str, torch.Tensor]]]:
    """The same of every model."""
    return {name: gradients(name, tensor) for name in [*FAMILIES, *ODD]}


def weights(name: str, tensor: int) -> list[dict[str, torch.Tensor] | None]:
    """The whole weights, on rank 0, of a model that started on the meta device, and of one that had values."""
    found = []
    for model in (shell((FAMILIES | ODD)[name]), initialise(Transformer((FAMILIES | ODD)[name]), seed=7)):
        spread = put_on(model, Machine(tensor=tensor))
        found.append(spread.whole(spread.held(model)))
    return found


def furthest(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> float:
    """The largest difference of any gradient's entry, as a share of the largest entry of all."""
    assert found.keys() == wanted.keys()
    largest = max(float(gradient.abs().max()) for gradient in wanted.values())
    return max(float((found[key] - wanted[key]).abs().max()) for key in wanted) / largest
