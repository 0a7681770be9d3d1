"""How a model lies on the processes of a run: which part of each tensor a rank holds, and what the ranks tell each other."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fledge.train.parallel.ranks import Board, alive

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

Part = tuple[slice, ...]
Place = tuple[int, int]  # which one, of how many
Change = Callable[[list[Tensor]], list[Tensor]]


@dataclass(frozen=True)
class Cut:
    """How one parameter, `shape` as a whole, is cut: along dimension `tensor` among the tensor ranks (None: each has all of it), and what
    that leaves along the first dimension among the data ranks.

    `summed` says that a tensor rank's gradient is only its share of the whole one.
    """

    shape: tuple[int, ...]
    tensor: int | None = None
    summed: bool = False

    def part(self, data: Place, tensor: Place) -> Part:
        """The part that the rank at these places holds; it may be empty.

        >>> Cut((8, 6), tensor=1).part(data=(0, 4), tensor=(1, 2))
        (slice(0, 2, None), slice(3, 6, None))
        """
        places = [slice(0, length) for length in self.shape]
        if self.tensor is not None:
            places[self.tensor] = chunk(self.shape[self.tensor], *tensor)
        if places:
            rows = places[0]
            own = chunk(rows.stop - rows.start, *data)
            places[0] = slice(rows.start + own.start, rows.start + own.stop)
        return tuple(places)


def chunk(length: int, place: int, of: int) -> slice:
    """What `torch.chunk` gives to the `place`-th of so many; the last may get less, or nothing."""
    size = -(-length // of)
    return slice(min(place * size, length), min((place + 1) * size, length))


def total_norm(tensors: list[Tensor]) -> Tensor:
    """The norm of all of them together; on a CPU by inner products, which take less than half the time of torch's norms there."""
    if any(tensor.device.type != "cpu" or tensor.dtype != torch.float32 for tensor in tensors):
        return torch.nn.utils.get_total_norm(tensors)
    return torch.stack([torch.dot(flat, flat) for flat in (tensor.flatten() for tensor in tensors)]).sum().sqrt()


class Alone:
    """A model that is whole in this one process: nothing is cut, and nobody has to be asked."""

    rank, size = 0, 1

    def __init__(self, cuts: Mapping[str, Cut]):
        self.cuts = cuts
        self.data: Place = (0, 1)
        self.tensor: Place = (0, 1)

    def local(self, tensor: Tensor) -> Tensor:
        """The part of a parameter or gradient that lies here."""
        return tensor

    def held(self, model: nn.Module) -> dict[str, Tensor]:
        """The part that lies here of each parameter of the model, between two steps."""
        return dict(model.named_parameters())

    def part(self, name: str) -> Part:
        """The part of the parameter `name` that lies here."""
        return self.cuts[name].part(self.data, self.tensor)

    def sums(self, *numbers: float) -> list[float]:
        """Each number summed over the data ranks."""
        return list(numbers)

    def agreed(self, value: Any) -> Any:
        """What rank 0 says, as JSON can hold it."""
        return value

    def alive(self, doing: str, step: int | None = None) -> None:
        """Tell those who watch that this rank moves on."""

    def most(self, number: int) -> int:
        """The largest of the ranks' numbers."""
        return number

    def first(self, act: Callable[[], object]) -> None:
        """Rank 0 acts while the others wait; what goes wrong there is raised everywhere."""
        act()

    def after_all(self, act: Callable[[], Any], then: Callable[[list[Any]], object]) -> None:
        """All act at once, and rank 0 does `then` with what each came to, as JSON can hold it; what goes wrong is raised everywhere."""
        then([act()])

    def first_said(self, sentence: str | None) -> str | None:
        """What the first rank says that says anything."""
        return sentence

    def begins(self, name: str, tensor: Tensor) -> list[int] | None:
        """Where in the whole the part begins that lies here, of a tensor that lies like the parameter `name` or is a single number.

        None where it is for another rank to write it.
        """
        return [0] * tensor.ndim

    def summed(self, loss: Tensor) -> Tensor:
        """A loss summed over the data ranks."""
        return loss

    def complete(self, gradients: Mapping[str, Tensor]) -> None:
        """Add up in place the gradients of which each tensor rank has a share."""

    def norm(self, gradients: Mapping[str, Tensor]) -> Tensor:
        """The norm of all gradients together, everywhere."""
        return total_norm(list(gradients.values()))

    def on_owners(self, parts: Mapping[str, Tensor], change: Change) -> dict[str, Tensor]:
        """Tensors that lie like the parameters of their names, changed as whole ones."""
        return dict(zip(parts, change(list(parts.values())), strict=True))

    def whole(self, held: dict[str, Tensor]) -> dict[str, Tensor] | None:
        """The whole parameters of which these are the parts held here, in CPU memory of rank 0 alone; None elsewhere."""
        return held


class Spread(Alone):
    """A model cut over `mesh`, whose dimensions are the data ranks and the tensor ranks."""

    def __init__(self, mesh: DeviceMesh, cuts: Mapping[str, Cut]):
        super().__init__(cuts)
        self.board = Board(mesh.get_rank(), mesh.size())
        self.mesh, self.rank, self.size = mesh, mesh.get_rank(), mesh.size()
        self.data = mesh["data"].get_local_rank(), mesh["data"].size()
        self.tensor = mesh["tensor"].get_local_rank(), mesh["tensor"].size()

    def place(self, rank: int) -> dict[str, Place]:
        """Where another rank stands."""
        return {"data": (rank // self.tensor[1], self.data[1]), "tensor": (rank % self.tensor[1], self.tensor[1])}

    def holders(self, name: str) -> list[tuple[int, Part]]:
        """The ranks that hold the parameter's parts, each part once, and no empty one."""
        return [(rank, self.cuts[name].part(**self.place(rank))) for rank in range(self.size) if self.holds(name, rank)]

    def holds(self, name: str, rank: int) -> bool:
        cut = self.cuts[name]
        return (cut.tensor is not None or rank % self.tensor[1] == 0) and math.prod(_lengths(cut.part(**self.place(rank)))) > 0

    def local(self, tensor: Tensor) -> Tensor:
        from torch.distributed.tensor import DTensor

        with torch.no_grad():
            return tensor.to_local() if isinstance(tensor, DTensor) else tensor

    def held(self, model: nn.Module) -> dict[str, Tensor]:
        from torch.distributed.fsdp import FSDPModule

        if isinstance(model, FSDPModule):
            model.reshard()  # what a forward pass without a backward one has gathered
        return {name: self.local(parameter) for name, parameter in model.named_parameters()}

    def sums(self, *numbers: float) -> list[float]:
        counted = torch.tensor(numbers, dtype=torch.float64) * (self.tensor[0] == 0)
        torch.distributed.all_reduce(counted)
        return counted.tolist()

    def agreed(self, value: Any) -> Any:
        said = json.dumps(value).encode() if self.rank == 0 else b""
        length = torch.tensor([len(said)])
        torch.distributed.broadcast(length, 0)
        text = torch.frombuffer(bytearray(said), dtype=torch.uint8) if self.rank == 0 else torch.empty(int(length), dtype=torch.uint8)
        torch.distributed.broadcast(text, 0)
        return json.loads(text.numpy().tobytes())

    def alive(self, doing: str, step: int | None = None) -> None:
        alive(doing, step)

    def most(self, number: int) -> int:
        found = torch.tensor([number])
        torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MAX)
        return int(found)

    def first(self, act: Callable[[], object]) -> None:
        self.board.after_all(act if self.rank == 0 else lambda: None, lambda found: None)

    def after_all(self, act: Callable[[], Any], then: Callable[[list[Any]], object]) -> None:
        self.board.after_all(act, then)

    def first_said(self, sentence: str | None) -> str | None:
        said: list[str | None] = [None] * self.size
        torch.distributed.all_gather_object(said, sentence)
        return next((one for one in said if one is not None), None)

    def begins(self, name: str, tensor: Tensor) -> list[int] | None:
        if not tensor.ndim:
            return [] if self.rank == 0 else None
        part = dict(self.holders(name)).get(self.rank)
        return None if part is None else [place.start for place in part]

    def summed(self, loss: Tensor) -> Tensor:
        if self.data[1] > 1:
            torch.distributed.all_reduce(loss, group=self.mesh["data"].get_group())
        return loss

    def complete(self, gradients: Mapping[str, Tensor]) -> None:
        if self.tensor[1] > 1:
            for name, gradient in gradients.items():
                if self.cuts[name].summed:
                    torch.distributed.all_reduce(gradient, group=self.mesh["tensor"].get_group())

    def norm(self, gradients: Mapping[str, Tensor]) -> Tensor:
        counted = [g for name, g in gradients.items() if g.numel() and (self.cuts[name].tensor is not None or self.tensor[0] == 0)]
        device = next(iter(gradients.values())).device
        squares = total_norm(counted).to(device).square() if counted else torch.zeros((), device=device)
        torch.distributed.all_reduce(squares)
        return squares.sqrt()

    def on_owners(self, parts: Mapping[str, Tensor], change: Change) -> dict[str, Tensor]:
        """Each whole tensor comes together on one rank, its owner, is changed there, and is dealt again: two exchanges in all."""
        if not parts:
            return {}
        order = sorted(parts, key=lambda name: -math.prod(self.cuts[name].shape))
        owned = [order[rank :: self.size] for rank in range(self.size)]
        some, mine = next(iter(parts.values())), owned[self.rank]
        given = [[parts[name].flatten() for name in names if self.holds(name, self.rank)] for names in owned]
        sizes = [[self.elements(name, rank) if self.holds(name, rank) else 0 for name in mine] for rank in range(self.size)]
        taken = zip(*_exchanged(given, sizes, some), strict=True)
        changed = change([self.joined(name, pieces) for name, pieces in zip(mine, taken, strict=True)])
        dealt = [self.parted(name, whole.to(some.dtype)) for name, whole in zip(mine, changed, strict=True)]
        rows = [[pieces[rank] for pieces in dealt] for rank in range(self.size)]
        found = _exchanged(rows, [[self.elements(name, self.rank) for name in names] for names in owned], some)
        return {
            name: piece.view(_lengths(self.part(name)))
            for names, pieces in zip(owned, found, strict=True)
            for name, piece in zip(names, pieces, strict=True)
        }

    def elements(self, name: str, rank: int) -> int:
        """How many numbers of the parameter lie on a rank."""
        return math.prod(_lengths(self.cuts[name].part(**self.place(rank))))

    def sections(self, name: str) -> list[Part]:
        """What each tensor rank holds of the parameter, together with those that stand at its place among the other data ranks."""
        return [self.cuts[name].part((0, 1), (place, self.tensor[1])) for place in range(self.tensor[1])]

    def joined(self, name: str, pieces: Sequence[Tensor]) -> Tensor:
        """The whole parameter of what each rank holds of it, flat: section by section, for there may be thousands of ranks."""
        whole = pieces[0].new_empty(self.cuts[name].shape)
        sections = self.sections(name) if self.cuts[name].tensor is not None else self.sections(name)[:1]
        for place, section in enumerate(sections):
            whole[section] = torch.cat(list(pieces[place :: self.tensor[1]])).view(_lengths(section))
        return whole

    def parted(self, name: str, whole: Tensor) -> list[Tensor]:
        """What each rank is to hold of the whole parameter, flat."""
        found: list[Sequence[Tensor]] = []
        for place, section in enumerate(self.sections(name)):
            found.append(whole[section].flatten().split([self.elements(name, rank) for rank in range(place, self.size, self.tensor[1])]))
        return [piece for pieces in zip(*found, strict=True) for piece in pieces]

    def whole(self, held: dict[str, Tensor]) -> dict[str, Tensor] | None:
        found = {name: tensor for name, tensor in self.gathered(held) if tensor is not None}
        return found if self.rank == 0 else None

    def gathered(self, tensors: Mapping[str, Tensor]) -> Iterable[tuple[str, Tensor | None]]:
        """Each of these tensors, cut like the parameters of their names, whole on rank 0 and None elsewhere; all ranks walk along."""
        for name, tensor in tensors.items():
            yield name, self._gathered(name, tensor.detach().cpu())

    def _gathered(self, name: str, own: Tensor) -> Tensor | None:
        complete = torch.empty(self.cuts[name].shape, dtype=own.dtype) if self.rank == 0 else None
        for rank, part in self.holders(name):
            if complete is not None:
                piece = own if rank == 0 else own.new_empty(_lengths(part))
                if rank:
                    torch.distributed.recv(piece, rank)
                complete[part] = piece
            elif rank == self.rank:
                torch.distributed.send(own.contiguous(), 0)
        return complete


def spread_of(model: nn.Module) -> Alone:
    """How this model lies on the ranks."""
    found = model.__dict__.get("spread")
    return found if found is not None else Alone({name: Cut(tuple(p.shape)) for name, p in model.named_parameters()})


def _lengths(part: Sequence[slice]) -> list[int]:
    return [place.stop - place.start for place in part]


def _exchanged(given: Sequence[Sequence[Tensor]], sizes: Sequence[Sequence[int]], like: Tensor) -> list[list[Tensor]]:
    """What each rank gives this one, flat and of these sizes, for what this one gives each."""
    sent = torch.cat([like.new_empty(0), *(tensor for row in given for tensor in row)])
    found = like.new_empty(sum(map(sum, sizes)))
    torch.distributed.all_to_all_single(found, sent, [*map(sum, sizes)], [sum(tensor.numel() for tensor in row) for row in given])
    pieces = iter(found.split([size for row in sizes for size in row]))
    return [[next(pieces) for _ in row] for row in sizes]
