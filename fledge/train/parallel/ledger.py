"""Which memory a training step holds and when: every storage of a tensor, from its first operation to its end, and what it was for."""

import gc
import weakref
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Kind = Literal["weights", "gradients", "optimizer", "activations", "exchange"]
KINDS: tuple[Kind, ...] = ("weights", "gradients", "optimizer", "activations", "exchange")


@dataclass
class Holding:
    """So many bytes from one moment to another (None: still held)."""

    bytes: int
    kind: Kind
    begun: int
    ended: int | None = None


@dataclass(frozen=True)
class Exchange:
    """One call in which `ranks` take part, which lie within `span` ranks side by side: `bytes` of the whole tensor."""

    name: str
    ranks: int
    span: int
    bytes: int

    @property
    def sent(self) -> float:
        """Bytes that a rank of a ring sends; a sum goes around twice (Patarasuk and Yuan, 2009, doi:10.1016/j.jpdc.2008.09.002)."""
        return self.bytes * (self.ranks - 1) / self.ranks * (2 if self.name == "allreduce" else 1)


class Ledger(TorchDispatchMode):
    """Inside, the storages of all tensors that operations make are written down, fake ones too.

    Moments count operations; `mark` names the present one. What an exchange between ranks reads or fills, and what is sized anew (as FSDP2
    does with the weights that it gathers), is of the kind `exchange`; all else `activations`, unless `is_kind` says what it is.
    """

    def __init__(self):
        super().__init__()
        self.now = 0
        self.holdings: list[Holding] = []
        self.marks: list[tuple[int, tuple[str, ...]]] = []
        self.exchanges: list[tuple[int, Exchange]] = []
        self.held: dict[int, tuple[Holding, weakref.ref]] = {}  # by the identity of the storage

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        from torch.distributed.tensor import DTensor

        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # it comes again with the local tensors
        made = func(*args, **(kwargs or {}))
        self.now += 1
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self.hold(tensor)
        if func.namespace in ("c10d", "_c10d_functional"):
            self.note_exchange(func, (args, kwargs), made)
        return made

    def __enter__(self) -> "Ledger":
        self.resize = torch.UntypedStorage.resize_  # no operation, so that no mode is told of it: PyTorch's own MemTracker does the same

        def resize(storage: torch.UntypedStorage, size: int) -> Any:
            made = self.resize(storage, size)
            if id(storage) in self.held:
                self.sized_anew(storage)
            return made

        torch.UntypedStorage.resize_ = resize  # pyrefly: ignore[bad-assignment]
        return super().__enter__()

    def __exit__(self, exc_type: Any, exc_val: Any, exc_tb: Any) -> Any:
        torch.UntypedStorage.resize_ = self.resize
        return super().__exit__(exc_type, exc_val, exc_tb)

    def hold(self, tensor: Tensor) -> Holding:
        """The holding of a tensor's storage, which begins now where it is new."""
        storage = tensor.untyped_storage()
        holding, _ = self.held.get(id(storage), (None, None))
        if holding is None:
            holding = Holding(storage.nbytes(), "activations", self.now)
            self.holdings.append(holding)
            self.held[id(storage)] = (holding, weakref.ref(storage, self.release(id(storage))))
        return holding

    def sized_anew(self, storage: torch.UntypedStorage) -> None:
        before, alive = self.held[id(storage)]
        before.ended = self.now
        after = Holding(storage.nbytes(), "exchange", self.now)
        if before.bytes:
            before.kind = "exchange"
        self.holdings.append(after)
        self.held[id(storage)] = (after, alive)

    def release(self, identity: int) -> Any:
        def end(_: weakref.ref) -> None:
            self.held.pop(identity)[0].ended = self.now

        return end

    def is_kind(self, kind: Kind, tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            self.hold(tensor).kind = kind

    def note_exchange(self, func: Any, given: Any, made: Any) -> None:
        tensors = [leaf for leaf in tree_leaves((given, made)) if isinstance(leaf, Tensor)]
        groups = [ranks for leaf in tree_leaves(given) if (ranks := _ranks(leaf))]
        if tensors and groups:
            name, ranks = func.__name__.split(".")[0].strip("_"), groups[0]
            exchange = Exchange(name, len(ranks), max(ranks) - min(ranks) + 1, max(tensor.nbytes for tensor in tensors))
            self.exchanges.append((self.now, exchange))
        for tensor in tensors:
            holding = self.hold(tensor)
            if holding.kind == "activations":
                holding.kind = "exchange"

    def mark(self, *names: str) -> None:
        """What follows is of these names, until the next mark.

        What nobody can reach any more is released first: else it is held until Python happens to look.
        """
        gc.collect()
        self.marks.append((self.now, names))

    def names_at(self, moment: int) -> tuple[str, ...]:
        return next(names for begun, names in reversed(self.marks) if begun <= moment)

    def watch(self, module: nn.Module, *names: str) -> None:
        """Mark the forward and the backward pass of a module with one result, and what follows the former."""

        def begin(*_: Any) -> None:
            self.mark(*(f"{name} forward" for name in names))

        def end(_: nn.Module, __: Any, made: Tensor) -> None:
            self.mark(*(f"after {name} forward" for name in names))
            if made.requires_grad:
                made.register_hook(lambda _: self.mark(*(f"{name} backward" for name in names)))

        module.register_forward_pre_hook(begin)
        module.register_forward_hook(end)

    def peaks(self) -> dict[str, Counter[Kind]]:
        """The bytes of each kind at the fullest moment of each name; nothing before the first mark."""
        changes: dict[int, Counter[Kind]] = {}
        for holding in self.holdings:
            changes.setdefault(holding.begun, Counter())[holding.kind] += holding.bytes
            if holding.ended is not None:
                # what ends during an operation was there while it ran
                changes.setdefault(holding.ended + 1, Counter())[holding.kind] -= holding.bytes
        found: dict[str, Counter[Kind]] = {}
        marks, names, full = iter([*self.marks, (self.now + 2, ())]), tuple[str, ...](), Counter[Kind]()
        begins, following = next(marks)
        for moment in range(self.now + 2):
            full.update(changes.get(moment, Counter()))
            while moment >= begins:
                names = following
                begins, following = next(marks)
            for name in names:
                if name not in found or full.total() > found[name].total():
                    found[name] = Counter(full)
        return found


def _ranks(leaf: Any) -> list[int]:
    """The ranks of a process group among an operation's arguments; none for anything else."""
    from torch.distributed import ProcessGroup, get_process_group_ranks

    if isinstance(leaf, torch.ScriptObject) and "ProcessGroup" in str(leaf._type()):
        leaf = ProcessGroup.unbox(leaf)
    return get_process_group_ranks(leaf) if isinstance(leaf, ProcessGroup) else []
