"""What an `Arch` consists of: its parts with their shapes, exact parameter counts and operations."""

from dataclasses import dataclass

from fledge.arch.spec import (
    Arch,
    Attention,
    Classes,
    DistanceBias,
    Hidden,
    LayerNorm,
    Learned,
    Mlp,
    Moe,
    Norm,
    Replaced,
    RmsNorm,
    Sees,
    Sinusoid,
    Stack,
    Transform,
    Words,
)


@dataclass(frozen=True)
class Part:
    """`times` equal parts together: their trained parameters, and the operations of their matrix products in one forward pass."""

    name: str
    shape: str
    times: int
    parameters: int
    flops: int


def parts(arch: Arch, length: int) -> list[Part]:
    """All parts in the order of a forward pass over `length` tokens (of source and target alike); multiply-adds count as two operations."""
    width = arch.embedding_width
    rows = [Part("embedding", f"{arch.vocabulary:,} x {width}", 1, arch.vocabulary * width, 0)]
    if arch.embedding.types:
        rows.append(Part("token types", f"{arch.embedding.types} x {width}", 1, arch.embedding.types * width, 0))
    for name, stack in arch.stacks.items():
        rows += _stack_parts(f"{name} " if len(arch.stacks) > 1 else "", stack, width, length)
    return [*rows, _head_part(arch, length)]


def parameter_count(arch: Arch) -> int:
    """The exact number of trained parameters; a tied head counts once."""
    return sum(part.parameters for part in parts(arch, 1))


def forward_flops(arch: Arch, length: int) -> int:
    """Multiply-adds count as two; matrix products of one forward pass over `length` tokens, the head at every token included."""
    return sum(part.flops for part in parts(arch, length))


def norm_parameters(norm: Norm | None, width: int) -> int:
    match norm:
        case LayerNorm(bias=bias):
            return (1 + bias) * width
        case RmsNorm():
            return width
        case None:
            return 0


def _stack_parts(of: str, stack: Stack, embedding: int, length: int) -> list[Part]:
    width, rows, blocks = stack.width, list[Part](), list[Part]()
    match stack.positions:
        case Learned(positions, offset):
            rows.append(Part(of + "learned positions", f"{positions + offset:,} x {embedding}", 1, (positions + offset) * embedding, 0))
        case Sinusoid():
            rows.append(Part(of + "sinusoids", f"{embedding} waves", 1, 0, 0))
        case DistanceBias(buckets):
            heads = stack.pattern[0].attention.heads
            rows.append(Part(of + "distance bias", f"{buckets} buckets x {_heads(heads)}", 1, buckets * heads, 0))
    norms = norm_parameters(stack.norm_embedding, embedding) + norm_parameters(stack.norm_final, width)
    if embedding != width:
        rows.append(Part(of + "projection", f"{embedding} -> {width}", 1, embedding * width + width, 2 * length * embedding * width))
    for i, block in enumerate(stack.pattern[: stack.depth]):
        times = len(range(i, stack.depth, len(stack.pattern)))
        each = sum(norm_parameters(norm, width) for norm in (block.norm_in, block.norm_out, block.norm_sum))
        norms += times * (each * (2 + (block.across is not None)) - block.bare_attention * norm_parameters(block.norm_in, width))
        blocks.append(_attention_part(of + "attention", times, block.attention, width, length))
        if block.across is not None:
            blocks.append(_attention_part(of + "attention across", times, block.across, width, length))
        blocks.append(_mlp_part(of, times, block.mlp, width, length))
    return [*rows, *_together(blocks), *([Part(of + "norms", "", 1, norms, 0)] if norms else [])]


def _together(rows: list[Part]) -> list[Part]:
    """Equal parts as one, where the first of them stands."""
    found: dict[tuple, Part] = {}
    for row in rows:
        alike = row.name, row.shape, row.parameters // row.times, row.flops // row.times
        before = found.get(alike, Part(row.name, row.shape, 0, 0, 0))
        found[alike] = Part(row.name, row.shape, before.times + row.times, before.parameters + row.parameters, before.flops + row.flops)
    return list(found.values())


def _attention_part(name: str, times: int, a: Attention, width: int, length: int) -> Part:
    q, kv = a.heads * a.head_size, a.kv_heads * a.head_size
    weights = width * (q + 2 * kv) + q * width
    over = (q, kv) if a.norms_over == "width" else (a.head_size, a.head_size)
    small = a.bias * (q + 2 * kv) + a.bias_out * width + a.sinks * a.heads
    small += norm_parameters(a.q_norm, over[0]) + norm_parameters(a.k_norm, over[1])
    flops = 2 * length * weights + 4 * q * seen_pairs(a.sees, length)
    shared = f" ({a.kv_heads} k/v)" if a.kv_heads != a.heads else ""
    rotary = ", rotary" if a.positions else ""
    shape = f"{_heads(a.heads)}{shared} of {a.head_size}, {sight(a.sees)}{rotary}"
    return Part(name, shape, times, times * (weights + small), times * flops)


def _mlp_part(of: str, times: int, mlp: Mlp | Moe, width: int, length: int) -> Part:
    match mlp:
        case Mlp():
            return Part(
                of + "MLP",
                _mlp_shape(mlp, width),
                times,
                times * sum(_mlp_sizes(mlp, width)),
                times * 2 * length * _mlp_sizes(mlp, width)[0],
            )
        case Moe(expert, experts, chosen):
            weights, biases = _mlp_sizes(expert, width)
            parameters = experts * (weights + biases + width + mlp.router_bias)
            shape = f"{chosen} of {experts} experts, {_mlp_shape(expert, width)}"
            return Part(of + "experts", shape, times, times * parameters, times * 2 * length * (chosen * weights + experts * width))


def _mlp_sizes(m: Mlp, width: int) -> tuple[int, int]:
    return (2 + m.gated) * width * m.width, m.bias * ((1 + m.gated) * m.width + width)


def _mlp_shape(m: Mlp, width: int) -> str:
    return f"{width} -> {m.width} -> {width}, {'gated ' if m.gated else ''}{m.activation}"


def _head_part(arch: Arch, length: int) -> Part:
    width, out = arch.trunk.width, arch.embedding_width
    match arch.head:
        case Words(tied, bias, transform=transform):
            sizes = _transform_sizes(transform, width, out)
            last = out if transform else width
            parameters = sum(sizes) + bias * arch.vocabulary + (not tied) * last * arch.vocabulary
            shape = "the embedding again" if tied else f"{last} -> {arch.vocabulary:,}"
            return Part("head", shape, 1, parameters, 2 * length * (sizes[0] + last * arch.vocabulary))
        case Classes(labels, reads, transform, bias):
            sizes = _transform_sizes(transform, width, width)
            parameters = sum(sizes) + len(labels) * (width + bias)
            return Part("head", f"{reads} of {width} -> {', '.join(labels)}", 1, parameters, 2 * (sizes[0] + width * len(labels)))
        case Replaced(transform):
            sizes = _transform_sizes(transform, width, width)
            return Part("head", f"{width} -> replaced or not", 1, sum(sizes) + width + 1, 2 * length * (sizes[0] + width))
        case Hidden(pooler):
            return Part("head", f"{width} numbers a token", 1, sum(_transform_sizes(pooler, width, width)), 0)


def _transform_sizes(transform: Transform | None, width: int, out: int) -> tuple[int, int]:
    return (0, 0) if transform is None else (width * out, transform.bias * out + norm_parameters(transform.norm, out))


def seen_pairs(sees: Sees, length: int) -> int:
    """How many pairs of query and key there are among `length` positions."""
    left, right = (length if side is None else side for side in sees)
    if left >= length and right >= length:
        return length * length
    return sum(min(i, left) + 1 + min(length - 1 - i, right) for i in range(length))


def sight(sees: Sees) -> str:
    match sees:
        case (None, None):
            return "sees all"
        case (None, 0):
            return "causal"
        case (int(left), 0):
            return f"window {left + 1:,}"
        case left, right:
            return f"sees {'all' if left is None else left} left, {'all' if right is None else right} right"


def _heads(count: int) -> str:
    return f"{count:,} head" if count == 1 else f"{count:,} heads"
