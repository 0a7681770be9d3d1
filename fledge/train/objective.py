"""Batches and scores become a summed loss, which travels with its count; means are taken once, by whoever knows the total."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fledge.arch import Choice, Stack
from fledge.data.batches import IGNORED, Batch, Compared, Source
from fledge.model import Transformer, kernels
from fledge.model.head import Words, cross_entropy
from fledge.model.transformer import refuse_beyond
from fledge.train.run import Distillation, Preference, Reward

CHUNK = 1024  # tokens whose scores exist at once
SCORES = 2**29  # scores that exist at once on a GPU, which larger products keep busier
MULTIPLE = 64  # of the rows of such a product, so that any number of labels comes in few shapes


class Objective(Protocol):
    """What a model is trained for: the loss summed over a batch, and what that sum counts."""

    def count(self, batch: Batch) -> float: ...
    def __call__(self, model: Transformer, batch: Batch) -> Tensor: ...

    def told(self) -> dict[str, float]:
        """What else was measured since it was last asked: sums by name, of which the means are taken as the loss's is."""
        return {}


class PredictTokens(Objective):
    """Cross-entropy in nats, summed over the labels that are trained on: the next word, a masked one, or one of a target.

    Learning from instructions differs by its labels alone, which spare the questions. With `smoothing` each label gives that share of
    its probability to all words alike, in training only (Szegedy et al., 2015, arXiv:1512.00567, section 7). Where there are experts,
    their balancing loss is added to the mean, in training.
    The scores never exist whole: only `chunk` tokens are projected at a time, or as many as suit the `device`, by default the model's
    own, and their gradients are taken on the spot.
    """

    def __init__(self, chunk: int | None = None, smoothing: float = 0.0, device: str | None = None):
        self.chunk, self.smoothing, self.device = chunk, smoothing, device

    def count(self, batch: Batch) -> int:
        return int(np.count_nonzero(batch.labels != IGNORED))

    def __call__(self, model: Transformer, batch: Batch) -> Tensor:
        hidden, labels = labelled_states(model, batch)
        head = model.head
        if not isinstance(head, Words):
            raise ValueError("words are scored here, but this model has no head for words")
        smoothing = self.smoothing if model.training else 0.0
        rows = () if head.rows is None else (head.rows.change(head.weight), head.rows.ids)
        chunk = self.chunk or chunk_of(len(labels), model.arch.vocabulary, self.device or hidden.device.type)
        loss = ChunkedCrossEntropy.apply(
            head.before(hidden), head.weight, head.bias, labels, chunk, smoothing, head.cross_entropy, head.handed, *rows
        )  # fmt: skip
        return loss + len(labels) * model.balancing_loss() if model.training else loss


def chunk_of(tokens: int, vocabulary: int, device: str) -> int:
    """How many of the tokens to score at once on a kind of device: on a GPU equally many each time, so that one compiled piece fits all."""
    if device != "cuda":
        return CHUNK
    parts = max(1, -(-tokens * vocabulary // SCORES))
    return max(CHUNK, MULTIPLE * -(-tokens // (parts * MULTIPLE)))


def labelled_states(model: Transformer, batch: Batch) -> tuple[Tensor, Tensor]:
    """The hidden states (n, width) that have a label, and those labels (n,), row by row."""
    device, stacks = model.embedding.weight.device, model.arch.stacks
    memory = model.encode(*read(batch.source, device, stacks["encoder"])) if batch.source else None
    hidden = model.hidden(*read(batch, device, model.arch.trunk), memory=memory).flatten(0, 1)
    trained = np.flatnonzero(batch.labels != IGNORED)
    if len(trained) < batch.labels.size:
        hidden = hidden[sent(trained, device)]
    return hidden, sent(batch.labels.reshape(-1)[trained], device)


def single_losses(scores: Tensor, labels: Tensor) -> Tensor:
    """The cross-entropy in nats of one class number each: scores (rows, classes), labels (rows,) -> (rows,)."""
    return F.cross_entropy(scores, labels, reduction="none")


def several_losses(scores: Tensor, labels: Tensor) -> Tensor:
    """The cross-entropy in nats of whether a row has each label: scores and labels (rows, labels) -> (rows, labels)."""
    return F.binary_cross_entropy_with_logits(scores, labels.to(scores.dtype), reduction="none")


def ordinal_losses(scores: Tensor, labels: Tensor) -> Tensor:
    """The cross-entropy in nats of whether the class is above each of the others but the last: (rows, classes), (rows,) -> (rows,).

    A class further off costs more: the ranked probability score (Epstein, 1969) with the logarithm for the square.
    """
    log = scores.log_softmax(-1)
    below, above = log.logcumsumexp(-1)[:, :-1], log.flip(-1).logcumsumexp(-1).flip(-1)[:, 1:]
    is_above = labels[:, None] > torch.arange(below.shape[1], device=labels.device)
    return -torch.where(is_above, above, below).sum(-1)


LOSSES: dict[Choice, Callable[[Tensor, Tensor], Tensor]] = {
    "single": single_losses,
    "several": several_losses,
    "ordinal": ordinal_losses,
}


class Classify(Objective):
    """The loss of each row's labels in nats, times the weight of its class; the count is the sum of those weights.

    Of several labels the weight is that of having a label; not having it weighs 1.
    """

    def __init__(self, weights: Sequence[float] | np.ndarray, choice: Choice = "single"):
        self.weights, self.choice = np.asarray(weights, dtype=np.float32), choice

    def weighed(self, labels: np.ndarray) -> np.ndarray:
        """The weight of each loss."""
        return np.where(labels, self.weights, np.float32(1)) if self.choice == "several" else self.weights[labels]

    def count(self, batch: Batch) -> float:
        return float(self.weighed(batch.labels).sum())

    def __call__(self, model: Transformer, batch: Batch) -> Tensor:
        scores = label_scores(model, batch)
        labels, weights = (torch.from_numpy(part).to(scores.device) for part in (batch.labels, self.weighed(batch.labels)))
        return (LOSSES[self.choice](scores, labels) * weights.to(scores.dtype)).sum()


def label_scores(model: Transformer, batch: Batch) -> Tensor:
    """The score of each label for each row, (rows, labels)."""
    device = model.embedding.weight.device
    types = None if batch.types is None or model.types is None else torch.from_numpy(batch.types).to(device)
    return model(*read(batch, device, *model.arch.stacks.values()), types=types)


class Tally:
    """Sums by name of what is measured on the way."""

    def __init__(self):
        self._sums: dict[str, float] = {}

    def add(self, **values: Tensor) -> None:
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(value)

    def taken(self) -> dict[str, float]:
        """The sums, which then begin anew."""
        found, self._sums = self._sums, {}
        return found


class Prefer(Objective):
    """Direct preference optimisation, summed over pairs: `-log σ(β (Δ - Δ_ref))`, Δ being how much more probable the chosen answer is.

    Rafailov et al., 2023, arXiv:2305.18290, eq. 7, with what `goal` says of it; `Δ_ref` is of the model before it learned. Told are the
    share of pairs whose chosen answer has the larger reward `β (log π - log π_ref)`, by how much, and the loss of chosen answers a token.
    """

    def __init__(self, goal: Preference):
        self.goal, self.tally = goal, Tally()

    def count(self, batch: Batch) -> int:
        return len(batch.tokens)

    def told(self) -> dict[str, float]:
        return self.tally.taken()

    def __call__(self, model: Transformer, batch: Batch) -> Tensor:
        assert isinstance(batch, Compared)
        assert batch.reference is not None
        goal = self.goal
        sums, counts = answer_logprobs(model, batch)
        moved = sums - torch.from_numpy(batch.reference).to(sums)
        rewards = goal.beta * (moved / counts if goal.length_normalised else moved)
        margins, chosen = rewards[:, 0] - rewards[:, 1], -sums[:, 0] / counts[:, 0]
        self.tally.add(reward_accuracy=(margins > 0).sum(), reward_margin=margins.detach().sum(), chosen_loss=chosen.detach().sum())
        loss = -(1 - goal.smoothing) * F.logsigmoid(margins) - goal.smoothing * F.logsigmoid(-margins)
        return (loss + goal.sft * chosen if goal.sft else loss).sum()


class Distil(Objective):
    """A teacher's distribution at each label, and the label: `share · T² KL(teacher ‖ model) + (1 - share) · cross-entropy`, summed.

    Hinton et al., 2015, arXiv:1503.02531, section 2, both softmaxes at the temperature T of `goal`. Told are both parts. Where one
    vocabulary is padded further than the other, they are compared as far as both go.
    """

    def __init__(self, goal: Distillation, teacher: Transformer):
        self.goal, self.teacher, self.tally = goal, teacher, Tally()

    def count(self, batch: Batch) -> int:
        return int(np.count_nonzero(batch.labels != IGNORED))

    def told(self) -> dict[str, float]:
        return self.tally.taken()

    def __call__(self, model: Transformer, batch: Batch) -> Tensor:
        goal, words = self.goal, min(model.arch.vocabulary, self.teacher.arch.vocabulary)
        hidden, labels = labelled_states(model, batch)
        with torch.no_grad():
            theirs, _ = labelled_states(self.teacher, batch)

        def scored(hidden: Tensor, theirs: Tensor, labels: Tensor) -> Tensor:
            scores, taught = (one.head(states)[:, :words] for one, states in ((model, hidden), (self.teacher, theirs)))
            exact = torch.promote_types(scores.dtype, torch.float32)
            cool, aim = ((part.to(exact) / goal.temperature).log_softmax(-1) for part in (scores, taught))
            divergence = goal.temperature**2 * F.kl_div(cool, aim, reduction="sum", log_target=True)
            return torch.stack((divergence, F.cross_entropy(scores.to(exact), labels, reduction="sum")))

        parts = zip(hidden.split(CHUNK), theirs.split(CHUNK), labels.split(CHUNK), strict=True)
        divergence, words_loss = torch.stack([again_backward(scored, *part) for part in parts]).sum(0)
        self.tally.add(divergence=divergence.detach(), words=words_loss.detach())
        loss = goal.share * divergence + (1 - goal.share) * words_loss
        return loss + len(labels) * model.balancing_loss() if model.training else loss


class Reinforce(Objective):
    """Group-relative policy optimisation on answers that the model has just given, summed over answers (GRPO).

    Shao et al., 2024, arXiv:2402.03300, eq. 3 with one update for each batch, so that the ratio is 1 and clips nothing: the mean over an
    answer's tokens of `-advantage · π / π_now`, and `kl` times the divergence from `reference` (eq. 4). Told is the mean reward.
    """

    def __init__(self, goal: Reward, reference: Transformer | None = None):
        self.goal, self.reference, self.tally = goal, reference, Tally()

    def count(self, batch: Batch) -> int:
        return len(batch.tokens)

    def told(self) -> dict[str, float]:
        return self.tally.taken()

    def __call__(self, model: Transformer, batch: Batch) -> Tensor:
        found, (rows, _) = label_logprobs(model, batch), np.nonzero(batch.labels != IGNORED)
        advantage, reward = (torch.from_numpy(getattr(batch, name)).to(found) for name in ("advantage", "reward"))
        answers = torch.from_numpy(rows).to(found.device)
        losses = -advantage[answers] * (found - found.detach()).exp()
        self.tally.add(reward=reward.sum())
        if self.reference is not None:
            with torch.no_grad():
                gap = label_logprobs(self.reference, batch) - found.detach()
            apart = gap + found.detach() - found  # log π_ref - log π
            divergence = apart.exp() - apart - 1
            losses = losses + self.goal.kl * divergence
            self.tally.add(divergence=(divergence.detach() / torch.bincount(answers, minlength=len(reward))[answers]).sum())
        return (losses / torch.bincount(answers, minlength=len(reward))[answers]).sum()


def answer_logprobs(model: Transformer, batch: Compared) -> tuple[Tensor, Tensor]:
    """The log-probability of each pair's answers, and how many tokens they have, both (rows, 2)."""
    found = label_logprobs(model, batch)
    rows, columns = np.nonzero(batch.labels != IGNORED)
    assert batch.document is not None
    answers = torch.from_numpy(2 * rows + batch.document[rows, columns]).to(found.device)
    sums = found.new_zeros(2 * len(batch.tokens)).index_add(0, answers, found)
    return sums.view(-1, 2), torch.bincount(answers, minlength=len(sums)).view(-1, 2)


def label_logprobs(model: Transformer, batch: Batch) -> Tensor:
    """The natural log-probability of each label that is not ignored, (n,) in fp32 at least, row by row.

    Scores of `CHUNK` tokens exist at once: they are computed again for the backward pass.
    """
    hidden, labels = labelled_states(model, batch)

    def scored(hidden: Tensor, labels: Tensor) -> Tensor:
        scores = model.head(hidden)
        return -F.cross_entropy(scores.to(torch.promote_types(scores.dtype, torch.float32)), labels, reduction="none")

    return torch.cat([again_backward(scored, *part) for part in zip(hidden.split(CHUNK), labels.split(CHUNK), strict=True)])


def again_backward(function: Callable[..., Tensor], *given: Tensor) -> Tensor:
    """`function(*given)`, of which nothing but what it was given is kept for the backward pass."""
    return checkpoint(function, *given, use_reentrant=False, preserve_rng_state=False)  # pyrefly: ignore[bad-return]


def read(part: Batch | Source, device: torch.device, *stacks: Stack) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Tokens, positions and documents on the device, for these stacks to read.

    Raises `ValueError` for a position beyond learned ones, which nobody has to ask the device for.
    """
    if part.positions is not None:
        for stack in stacks:
            refuse_beyond(stack, int(part.positions.max()) + 1)

    def on(array: np.ndarray | None) -> Any:
        return None if array is None else sent(array, device)

    return on(part.tokens), on(part.positions), on(part.document)


def sent(array: np.ndarray, device: torch.device) -> Tensor:
    """The array on the device; a GPU takes it from memory that stays where it is, or all that it has yet to do would be waited for."""
    here = torch.from_numpy(array)
    return here.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else here.to(device)


class ChunkedCrossEntropy(torch.autograd.Function):
    """`F.cross_entropy(cap(hidden @ weight.T + bias), labels, reduction="sum", label_smoothing=smoothing)` without ever holding all scores.

    The gradient of a cross-entropy, softmax minus the label, is known in the forward pass, so all gradients are taken
    there chunk by chunk and nothing is computed twice. Hidden (n, width), weight (vocabulary, width), bias (vocabulary,) or none,
    labels (n,); sums are fp32 at least. `scored` gives the loss of a chunk's scores and turns them into their gradient. Where there is a
    list `handed`, the gradient by the weight goes there. A `change` (tokens, width) is added to the rows of these `tokens` (tokens,).
    """

    @staticmethod
    def forward(
        ctx, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, chunk: int, smoothing: float = 0.0,
        scored: Callable[[Tensor, Tensor, float], Tensor] = cross_entropy, handed: list[Tensor] | None = None,
        change: Tensor | None = None, tokens: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        kind = hidden.device.type
        working = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
        exact = torch.promote_types(hidden.dtype, torch.float32)
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        loss = hidden.new_zeros((), dtype=exact)
        hidden_gradient = torch.empty_like(hidden) if wants_hidden else None
        weight_gradient = None
        bias_gradient = torch.zeros_like(bias, dtype=exact) if bias is not None and wants_bias else None
        change_gradient = None if change is None else torch.zeros_like(change, dtype=exact)
        with torch.autocast(kind, enabled=False):
            projection = weight if kernels.tiles(hidden[:0].to(working), weight) is not None else weight.to(working)
            added = None if change is None else change.to(working)
            for part in range(0, len(labels), chunk):
                piece, label = hidden[part : part + chunk].to(working), labels[part : part + chunk]
                piece = F.pad(piece, (0, 0, 0, -len(label) % MULTIPLE))
                gradient = kernels.affine(piece, projection, None if bias is None else bias.to(projection.dtype))
                if added is not None and tokens is not None:
                    gradient.index_add_(1, tokens, piece @ added.T)
                loss += scored(gradient[: len(label)], label, smoothing)
                gradient[len(label) :] = 0
                if hidden_gradient is not None:
                    back = kernels.affine_by_inputs(gradient, projection)
                    if added is not None:
                        back += gradient[:, tokens] @ added
                    hidden_gradient[part : part + chunk] = back[: len(label)]
                if wants_weight:
                    weight_gradient = kernels.affine_by_weight(gradient, piece, projection, weight_gradient)
                if bias_gradient is not None:
                    bias_gradient += gradient.sum(0, dtype=exact)
                if change_gradient is not None:
                    change_gradient += gradient[:, tokens].T @ piece
        if wants_weight and weight_gradient is None:  # there are no labels
            weight_gradient = torch.zeros_like(weight, dtype=exact)
        ctx.save_for_backward(hidden_gradient, weight_gradient, bias_gradient, change_gradient)
        ctx.weight_dtype, ctx.handed = weight.dtype, handed if wants_hidden else None
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore[bad-override]  (the decorator hides the types)
        (scale,) = grad_outputs
        hidden_gradient, weight_gradient, bias_gradient, change_gradient = ctx.saved_tensors
        if weight_gradient is not None:
            weight_gradient = weight_gradient.mul_(scale).to(ctx.weight_dtype)
        if weight_gradient is not None and ctx.handed is not None:
            ctx.handed.append(weight_gradient)
            weight_gradient = None
        return (
            None if hidden_gradient is None else hidden_gradient * scale,
            weight_gradient,
            None if bias_gradient is None else bias_gradient.mul_(scale).to(ctx.weight_dtype),
            None,
            None,
            None,
            None,
            None,
            None if change_gradient is None else change_gradient * scale,
            None,
        )
