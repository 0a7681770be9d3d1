"""How the dials of a published model become its `Arch`: one function a family; what is not given follows from the width."""

from math import sqrt

from fledge.arch import (
    Arch,
    Attention,
    Block,
    Classes,
    DistanceBias,
    Embedding,
    Hidden,
    LayerNorm,
    Learned,
    Mlp,
    Moe,
    Replaced,
    RmsNorm,
    Rope,
    Sinusoid,
    Stack,
    Stretch,
    Transform,
    Words,
    Yarn,
)


def gpt2(
    width: int, depth: int, heads: int | None = None, vocabulary: int = 50_257, context: int = 1024, mlp: int | None = None,
    tied: bool = True, dropout: float = 0.1, banded: int | None = None,
) -> Arch:  # fmt: skip
    """GPT-2's shape: learned positions, layer norm before each part, biases everywhere, tanh GELU (Radford et al., 2019).

    Without `heads` each is 64 wide, as in all four published sizes. With `banded` every second layer sees that many tokens (GPT-3).
    """
    heads = divided(width, heads or max(1, width // 64))
    norm = LayerNorm(1e-5)

    def block(window: int | None) -> Block:
        attention = Attention(heads, heads, width // heads, (None if window is None else window - 1, 0), bias=True, bias_out=True)
        return Block(attention, Mlp(mlp or 4 * width, "gelu_tanh", gated=False, bias=True), norm_in=norm)

    pattern = (block(None),) if banded is None else (block(None), block(banded))
    return Arch(vocabulary, context, Stack(width, depth, pattern, Learned(context), norm), Words(tied), dropout)


def qwen3(
    width: int, depth: int, heads: int | None = None, kv_heads: int | None = None, head_size: int | None = None, mlp: int | None = None,
    vocabulary: int = 32_768, context: int = 2048, rope_base: float = 10_000.0, tied: bool = True, dropout: float = 0.0,
    experts: int = 0, chosen: int = 8,
) -> Arch:  # fmt: skip
    """Qwen 3's shape: rotary positions, grouped attention, RMS norms also on queries and keys, gated SiLU (arXiv:2505.09388).

    What is not given follows from the width: heads of 64, or four narrower ones, fill it, half as many `kv_heads`, an MLP three times
    as wide (the ratios of Qwen3-0.6B and 1.7B). With `experts` each of them has an MLP, and a token takes the `chosen` best.
    """
    head_size = head_size or min(64, max(8, width // 4 // 8 * 8))
    heads = heads or max(1, width // head_size)
    kv_heads = kv_heads or (heads // 2 if heads % 2 == 0 else heads)
    norm, one = RmsNorm(1e-6), Mlp(mlp or 3 * width)
    attention = Attention(heads, kv_heads, head_size, positions=Rope(rope_base), q_norm=norm, k_norm=norm)
    block = Block(attention, Moe(one, experts, chosen, balance=0.001) if experts else one, norm_in=norm)
    return Arch(vocabulary, context, Stack(width, depth, (block,), None, norm), Words(tied), dropout)


def llama(
    width: int, depth: int, heads: int | None = None, kv_heads: int | None = None, mlp: int | None = None, vocabulary: int = 32_000,
    context: int = 4096, rope_base: float = 10_000.0, stretch: Stretch | None = None, window: int | None = None, eps: float = 1e-5,
    qkv_bias: bool = False, unturned: int = 0, experts: int = 0, chosen: int = 2, tied: bool = False, dropout: float = 0.0,
) -> Arch:  # fmt: skip
    """Llama's shape: rotary positions, RMS norm before each part, gated SiLU, no biases (arXiv:2302.13971).

    Mistral adds a `window`, Mixtral `experts`, Qwen 2.5 `qkv_bias`, SmolLM 3 leaves the positions out of each `unturned`-th layer.
    """
    heads = divided(width, heads or max(1, width // 128))
    norm, one = RmsNorm(eps), Mlp(mlp or 8 * width // 3)

    def block(rope: Rope | None) -> Block:
        sees = (None if window is None else window - 1, 0)
        attention = Attention(heads, kv_heads or heads, width // heads, sees, rope, bias=qkv_bias)
        return Block(attention, Moe(one, experts, chosen, balance=0.001) if experts else one, norm_in=norm)

    turned = block(Rope(rope_base, stretch))
    pattern = (turned,) * (unturned - 1) + (block(None),) if unturned else (turned,)
    return Arch(vocabulary, context, Stack(width, depth, pattern, None, norm), Words(tied), dropout)


def olmo2(
    width: int, depth: int, heads: int | None = None, kv_heads: int | None = None, mlp: int | None = None, vocabulary: int = 100_352,
    context: int = 4096, rope_base: float = 500_000.0, tied: bool = False, dropout: float = 0.0,
) -> Arch:  # fmt: skip
    """OLMo 2's shape: Llama's with the norms after each part, and on queries and keys over all heads (arXiv:2501.00656)."""
    heads = divided(width, heads or max(1, width // 128))
    norm = RmsNorm(1e-6)
    attention = Attention(heads, kv_heads or heads, width // heads, positions=Rope(rope_base), q_norm=norm, k_norm=norm, norms_over="width")
    block = Block(attention, Mlp(mlp or 8 * width // 3), norm_out=norm)
    return Arch(vocabulary, context, Stack(width, depth, (block,), None, norm), Words(tied), dropout)


def gemma2(
    width: int, depth: int, heads: int = 8, kv_heads: int = 4, head_size: int = 256, mlp: int | None = None, scaled_as: int | None = None,
    vocabulary: int = 256_000, context: int = 8192, window: int = 4096, tied: bool = True, dropout: float = 0.0,
) -> Arch:  # fmt: skip
    """Gemma 2's shape: local and global layers by turns, norms before and after each part, capped scores (arXiv:2408.00118).

    `scaled_as` is the head size by whose root the scores are divided.
    """
    norm = RmsNorm(1e-6, offset=1.0)

    def block(left: int | None) -> Block:
        scale = (scaled_as or head_size) ** -0.5
        attention = Attention(heads, kv_heads, head_size, (left, 0), Rope(), scale=scale, soft_cap=50.0)
        return Block(attention, Mlp(mlp or 4 * width, "gelu_tanh"), norm_in=norm, norm_out=norm)

    stack = Stack(width, depth, (block(window - 1), block(None)), None, norm)
    return Arch(vocabulary, context, stack, Words(tied, soft_cap=30.0), dropout, embedding=Embedding(sqrt(width)))


def gemma3(
    width: int, depth: int, heads: int = 4, kv_heads: int = 1, head_size: int = 256, mlp: int | None = None, vocabulary: int = 262_144,
    context: int = 32_768, window: int = 512, tied: bool = True, dropout: float = 0.0,
) -> Arch:  # fmt: skip
    """Gemma 3's shape: five local layers to a global one, each kind with its rotary base, norms on queries and keys (arXiv:2503.19786)."""
    norm = RmsNorm(1e-6, offset=1.0)

    def block(left: int | None, base: float) -> Block:
        attention = Attention(heads, kv_heads, head_size, (left, 0), Rope(base), norm, norm, scale=head_size**-0.5)
        return Block(attention, Mlp(mlp or 4 * width, "gelu_tanh"), norm_in=norm, norm_out=norm)

    pattern = (block(window - 1, 10_000.0),) * 5 + (block(None, 1_000_000.0),)
    return Arch(vocabulary, context, Stack(width, depth, pattern, None, norm), Words(tied), dropout, embedding=Embedding(sqrt(width)))


def gpt_oss(
    width: int, depth: int, experts: int = 32, chosen: int = 4, heads: int | None = None, kv_heads: int | None = None, head_size: int = 64,
    mlp: int | None = None, vocabulary: int = 201_088, context: int = 131_072, window: int = 128, tied: bool = False, dropout: float = 0.0,
) -> Arch:  # fmt: skip
    """gpt-oss's shape: attention sinks, windows in every other layer, YaRN, experts with cut gates, biases (arXiv:2508.10925)."""
    heads = heads or max(1, width // head_size)
    norm, rope = RmsNorm(1e-5), Rope(150_000.0, Yarn(32.0, 4096, whole=False))

    def block(left: int | None) -> Block:
        attention = Attention(heads, kv_heads or heads, head_size, (left, 0), rope, bias=True, bias_out=True, sinks=True)
        one = Mlp(mlp or width, "gelu_sigmoid", bias=True, limit=7.0, up_offset=1.0)
        return Block(attention, Moe(one, experts, chosen, router_bias=True, balance=0.001), norm_in=norm)

    return Arch(vocabulary, context, Stack(width, depth, (block(window - 1), block(None)), None, norm), Words(tied), dropout)


def bert(
    width: int, depth: int, heads: int | None = None, mlp: int | None = None, vocabulary: int = 30_522, context: int = 512, types: int = 2,
    offset: int = 0, eps: float = 1e-12, embedding: int | None = None, head: str = "words", dropout: float = 0.1,
) -> Arch:  # fmt: skip
    """BERT's shape: an encoder with learned positions and segments, norm after each sum, GELU (arXiv:1810.04805).

    RoBERTa has one of the `types` and an `offset` of positions, DistilBERT no types; `head` is words, replaced (ELECTRA, whose
    `embedding` may be narrower), or hidden (MiniLM, which carries a pooler).
    """
    heads = divided(width, heads or max(1, width // 64))
    norm = LayerNorm(eps)
    attention = Attention(heads, heads, width // heads, (None, None), bias=True, bias_out=True)
    block = Block(attention, Mlp(mlp or 4 * width, "gelu", gated=False, bias=True), norm_sum=norm)
    stack = Stack(width, depth, (block,), Learned(context, offset), norm_embedding=norm)
    heads_known: dict[str, Words | Classes | Replaced | Hidden] = {
        "words": Words(bias=True, transform=Transform("gelu", norm)),
        "replaced": Replaced(Transform("gelu")),
        "hidden": Hidden(Transform("tanh")),
    }
    if head not in heads_known:
        raise ValueError(f"head {head!r} is unknown: use one of {', '.join(heads_known)}")
    return Arch(vocabulary, context, None, heads_known[head], dropout, stack, Embedding(types=types, width=embedding))


def modernbert(
    width: int, depth: int, heads: int | None = None, mlp: int | None = None, vocabulary: int = 50_368, context: int = 8192,
    window: int = 128, tied: bool = True, dropout: float = 0.0,
) -> Arch:  # fmt: skip
    """ModernBERT's shape: an encoder with rotary positions, one global layer, two that see `window / 2` to each side (arXiv:2412.13663)."""
    heads = divided(width, heads or max(1, width // 64))
    norm = LayerNorm(1e-5, bias=False)

    def block(reach: int | None, base: float, bare: bool) -> Block:
        attention = Attention(heads, heads, width // heads, (reach, reach), Rope(base))
        return Block(attention, Mlp(mlp or 3 * width // 2, "gelu"), norm_in=norm, bare_attention=bare)

    blocks = tuple(block(window // 2, 10_000.0, False) if i % 3 else block(None, 160_000.0, i == 0) for i in range(depth))
    stack = Stack(width, depth, blocks, None, norm, norm)
    return Arch(vocabulary, context, None, Words(tied, bias=True, transform=Transform("gelu", norm, bias=False)), dropout, stack)


def transformer(
    width: int, depth: int, heads: int | None = None, mlp: int | None = None, vocabulary: int = 37_000, context: int = 512,
    dropout: float = 0.1, start: int = 0,
) -> Arch:  # fmt: skip
    """The Transformer of 2017: sinusoids, ReLU, norm after each sum, one embedding for source, target and scores (arXiv:1706.03762)."""
    heads = divided(width, heads or max(1, width // 64))
    return _both(width, depth, heads, Mlp(mlp or 4 * width, "relu", gated=False, bias=True), LayerNorm(1e-5), Sinusoid(), None,
                 vocabulary, context, Words(), dropout, Embedding(sqrt(width)), start)  # fmt: skip


def bart(
    width: int, depth: int, heads: int | None = None, mlp: int | None = None, vocabulary: int = 50_265, context: int = 1024,
    dropout: float = 0.1, start: int = 2,
) -> Arch:  # fmt: skip
    """BART's shape: learned positions that begin at 2, GELU, norm after each sum and after the embedding (arXiv:1910.13461)."""
    heads, norm = divided(width, heads or max(1, width // 64)), LayerNorm(1e-5)
    return _both(width, depth, heads, Mlp(mlp or 4 * width, "gelu", gated=False, bias=True), norm, Learned(context, 2), norm,
                 vocabulary, context, Words(bias=True), dropout, Embedding(), start)  # fmt: skip


def _both(
    width: int, depth: int, heads: int, mlp: Mlp, norm: LayerNorm, positions: Learned | Sinusoid, first: LayerNorm | None, vocabulary: int,
    context: int, words: Words, dropout: float, embedding: Embedding, start: int,
) -> Arch:  # fmt: skip
    """Encoder and decoder of one depth with norms after the sums."""
    causal, whole = (Attention(heads, heads, width // heads, (None, right), bias=True, bias_out=True) for right in (0, None))
    encoder = Stack(width, depth, (Block(whole, mlp, norm_sum=norm),), positions, norm_embedding=first)
    decoder = Stack(width, depth, (Block(causal, mlp, norm_sum=norm, across=whole),), positions, norm_embedding=first)
    return Arch(vocabulary, context, decoder, words, dropout, encoder, embedding, start)


def t5(
    width: int, depth: int, heads: int | None = None, head_size: int = 64, mlp: int | None = None, vocabulary: int = 32_128,
    context: int = 512, gated: bool = False, tied: bool = True, dropout: float = 0.1, start: int = 0,
) -> Arch:  # fmt: skip
    """T5's shape: distance biases, RMS norm before each part, no biases (arXiv:1910.10683).

    v1.0 has ReLU and a tied, scaled head; v1.1 is `gated` with GELU and untied.
    """
    heads, norm = heads or max(1, width // head_size), RmsNorm(1e-6)
    feed = Mlp(mlp or 4 * width, "gelu_tanh" if gated else "relu", gated)
    causal, whole = (Attention(heads, heads, head_size, (None, right), scale=1.0) for right in (0, None))
    encoder = Stack(width, depth, (Block(whole, feed, norm_in=norm),), DistanceBias(), norm)
    decoder = Stack(width, depth, (Block(causal, feed, norm_in=norm, across=whole),), DistanceBias(), norm)
    return Arch(vocabulary, context, decoder, Words(tied, scale=width**-0.5 if tied else 1.0), dropout, encoder, start=start)


def divided(width: int, heads: int) -> int:
    if width % heads:
        raise ValueError(f"width {width} does not divide into {heads} heads")
    return heads
