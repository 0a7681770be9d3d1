"""Tiny random models of `transformers`, one or more of every family, perturbed so that no two tensors could be swapped unseen."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from fledge.model import Transformer
from fledge.text.tokenizer import Tokenizer
from fledge.weights.folder import open_model

TOKENIZER = Tokenizer.bytes()
VOCABULARY, CONTEXT = TOKENIZER.size, 320
FP32 = torch.float32
START = 7  # what opens a target
IDS: dict[str, Any] = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": TOKENIZER.pad}
LABELS: dict[str, Any] = {"id2label": {0: "ham", 1: "spam", 2: "eggs"}, "label2id": {"ham": 0, "spam": 1, "eggs": 2}}
GPT2: dict[str, Any] = {
    **IDS,
    "n_positions": CONTEXT,
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
}
DECODER: dict[str, Any] = {
    **IDS, "max_position_embeddings": CONTEXT, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 48,
}  # fmt: skip
WIDE: dict[str, Any] = {**DECODER, "head_dim": 16}  # heads that together are wider than the model
TALL: dict[str, Any] = {**DECODER, "hidden_size": 64}
BERT: dict[str, Any] = {
    **IDS, "max_position_embeddings": CONTEXT, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48,
    "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
DISTILBERT: dict[str, Any] = {
    **IDS, "max_position_embeddings": CONTEXT, "dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 48, "dropout": 0.0,
    "attention_dropout": 0.0, "seq_classif_dropout": 0.0,
}  # fmt: skip
MODERNBERT: dict[str, Any] = {
    **IDS, "max_position_embeddings": CONTEXT, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 48,
    "local_attention": 8, "cls_token_id": 0, "sep_token_id": 0,
}  # fmt: skip
BART: dict[str, Any] = {
    **IDS, "max_position_embeddings": CONTEXT, "d_model": 32, "encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 4,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 40, "dropout": 0.0, "decoder_start_token_id": START,
    "forced_eos_token_id": None,
}  # fmt: skip
T5: dict[str, Any] = {
    **IDS, "d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 3, "num_heads": 4, "dropout_rate": 0.0,
    "relative_attention_num_buckets": 8, "relative_attention_max_distance": 20, "decoder_start_token_id": START, "n_positions": CONTEXT,
}  # fmt: skip
LLAMA3: dict[str, Any] = {
    "rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip
YARN: dict[str, Any] = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 32}
TRAINED = 40  # tokens, beyond which long factors turn the whole text
LONG: dict[str, Any] = {
    "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0, 1.1, 1.3, 1.6], "long_factor": [1.2, 2.5, 5.0, 9.0],
}  # fmt: skip
EVERY_SECOND = ["sliding_attention", "full_attention", "sliding_attention"]


def _t5(tied: bool, **config) -> Any:
    """transformers 5 ties every T5 that it makes: the head of v1.1 is untied by hand, as its published files are."""
    model = transformers.T5ForConditionalGeneration(transformers.T5Config(**T5, **config))
    if not tied:
        model.config.scale_decoder_outputs = False
        model.lm_head.weight = torch.nn.Parameter(torch.randn(VOCABULARY, 32) * 0.2)
    return model


CASES: dict[str, Callable[[], Any]] = {
    "gpt2": lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT2)),
    "gpt2 untied": lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT2, tie_word_embeddings=False)),
    "gpt2 narrow": lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT2, n_inner=40, layer_norm_epsilon=1e-3)),
    "gpt2 relu": lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT2, activation_function="relu")),
    "gpt2 classes": lambda: transformers.GPT2ForSequenceClassification(transformers.GPT2Config(**GPT2, **LABELS)),
    "qwen3": lambda: transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**WIDE)),
    "qwen3 tied": lambda: transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**WIDE, tie_word_embeddings=True)),
    "qwen3 bias": lambda: transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**WIDE, attention_bias=True, rms_norm_eps=1e-3)),
    "qwen3 base": lambda: transformers.Qwen3ForCausalLM(
        transformers.Qwen3Config(**WIDE, rope_parameters={"rope_theta": 1e6, "rope_type": "default"}, hidden_act="gelu")
    ),
    "qwen3 window": lambda: transformers.Qwen3ForCausalLM(
        transformers.Qwen3Config(**WIDE, use_sliding_window=True, sliding_window=5, max_window_layers=1)
    ),
    "qwen3 classes": lambda: transformers.Qwen3ForSequenceClassification(transformers.Qwen3Config(**WIDE, **LABELS)),
    "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**DECODER, mlp_bias=True, attention_bias=True)),
    "llama 3": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**WIDE, tie_word_embeddings=True, rope_parameters=LLAMA3)),
    "llama linear": lambda: transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**DECODER, rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0})
    ),
    "llama yarn": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**DECODER, rope_parameters=YARN)),
    "llama classes": lambda: transformers.LlamaForSequenceClassification(transformers.LlamaConfig(**DECODER, **LABELS)),
    "mistral": lambda: transformers.MistralForCausalLM(transformers.MistralConfig(**DECODER, sliding_window=6)),
    "qwen2": lambda: transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**DECODER)),
    "qwen2 window": lambda: transformers.Qwen2ForCausalLM(
        transformers.Qwen2Config(**DECODER, use_sliding_window=True, sliding_window=7, max_window_layers=2)
    ),
    "phi3": lambda: transformers.Phi3ForCausalLM(transformers.Phi3Config(**DECODER, sliding_window=9)),
    "phi3 partial": lambda: transformers.Phi3ForCausalLM(
        transformers.Phi3Config(
            **TALL,
            rope_parameters={"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.75},
        )
    ),
    "phi3 long": lambda: transformers.Phi3ForCausalLM(
        transformers.Phi3Config(**DECODER, original_max_position_embeddings=TRAINED, rope_parameters=LONG)
    ),
    "olmo2": lambda: transformers.Olmo2ForCausalLM(transformers.Olmo2Config(**DECODER)),
    "smollm3": lambda: transformers.SmolLM3ForCausalLM(transformers.SmolLM3Config(**DECODER, no_rope_layer_interval=2)),
    "gemma2": lambda: transformers.Gemma2ForCausalLM(
        transformers.Gemma2Config(
            **WIDE, sliding_window=6, query_pre_attn_scalar=24, attn_logit_softcapping=2.0, final_logit_softcapping=3.0
        )
    ),
    "gemma3": lambda: transformers.Gemma3ForCausalLM(
        transformers.Gemma3TextConfig(
            **WIDE,
            sliding_window=6,
            query_pre_attn_scalar=24,
            layer_types=EVERY_SECOND,
            rope_parameters={
                "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        )
    ),
    "mixtral": lambda: transformers.MixtralForCausalLM(transformers.MixtralConfig(**WIDE, num_local_experts=4)),
    "qwen3 moe": lambda: transformers.Qwen3MoeForCausalLM(
        transformers.Qwen3MoeConfig(
            **WIDE, num_experts=5, num_experts_per_tok=2, moe_intermediate_size=16, norm_topk_prob=False, mlp_only_layers=[1]
        )
    ),
    "qwen3 moe normalised": lambda: transformers.Qwen3MoeForCausalLM(
        transformers.Qwen3MoeConfig(**WIDE, num_experts=5, num_experts_per_tok=2, moe_intermediate_size=16, norm_topk_prob=True)
    ),
    "gpt-oss": lambda: transformers.GptOssForCausalLM(
        transformers.GptOssConfig(
            **WIDE,
            num_local_experts=4,
            num_experts_per_tok=2,
            sliding_window=6,
            layer_types=EVERY_SECOND,
            swiglu_limit=0.5,
            rope_parameters={**YARN, "truncate": False, "beta_fast": 32.0, "beta_slow": 1.0},
        )
    ),
    "bert": lambda: transformers.BertForMaskedLM(transformers.BertConfig(**BERT)),
    "bert classes": lambda: transformers.BertForSequenceClassification(transformers.BertConfig(**BERT, **LABELS)),
    "minilm": lambda: transformers.BertModel(transformers.BertConfig(**BERT)),
    "roberta": lambda: transformers.RobertaForMaskedLM(transformers.RobertaConfig(**BERT, type_vocab_size=1)),
    "roberta classes": lambda: transformers.RobertaForSequenceClassification(
        transformers.RobertaConfig(**BERT, type_vocab_size=1, **LABELS)
    ),
    "distilbert": lambda: transformers.DistilBertForMaskedLM(transformers.DistilBertConfig(**DISTILBERT)),
    "distilbert classes": lambda: transformers.DistilBertForSequenceClassification(transformers.DistilBertConfig(**DISTILBERT, **LABELS)),
    "modernbert": lambda: transformers.ModernBertForMaskedLM(transformers.ModernBertConfig(**MODERNBERT)),
    "modernbert biased": lambda: transformers.ModernBertForMaskedLM(
        transformers.ModernBertConfig(
            **MODERNBERT, norm_bias=True, attention_bias=True, mlp_bias=True, classifier_bias=True, decoder_bias=False
        )
    ),
    "modernbert classes": lambda: transformers.ModernBertForSequenceClassification(
        transformers.ModernBertConfig(**MODERNBERT, **LABELS, classifier_pooling="mean")
    ),
    "electra": lambda: transformers.ElectraForPreTraining(transformers.ElectraConfig(**BERT, embedding_size=24)),
    "electra same width": lambda: transformers.ElectraForPreTraining(transformers.ElectraConfig(**BERT, embedding_size=32)),
    "electra classes": lambda: transformers.ElectraForSequenceClassification(
        transformers.ElectraConfig(**BERT, embedding_size=24, **LABELS)
    ),
    "marian": lambda: transformers.MarianMTModel(transformers.MarianConfig(**BART, activation_function="relu", scale_embedding=True)),
    "bart": lambda: transformers.BartForConditionalGeneration(transformers.BartConfig(**BART)),
    "bart classes": lambda: transformers.BartForSequenceClassification(transformers.BartConfig(**BART, **LABELS)),
    "t5": lambda: _t5(True),
    "t5 1.1": lambda: _t5(False, feed_forward_proj="gated-gelu"),
    "t5 classes": lambda: transformers.T5ForSequenceClassification(transformers.T5Config(**T5, **LABELS)),
}
CLASSIFIERS = [name for name in CASES if name.endswith("classes")]
PAIRS = ["marian", "bart", "t5", "t5 1.1"]
ENCODERS = [name for name in CASES if name.split()[0] in ("bert", "minilm", "roberta", "distilbert", "modernbert", "electra")]
ENCODERS = [name for name in ENCODERS if name not in CLASSIFIERS]
DECODERS = [name for name in CASES if name not in (*CLASSIFIERS, *PAIRS, *ENCODERS)]
EXACT = ("gpt2", "bert", "minilm", "roberta", "distilbert", "electra", "marian", "bart")  # stay in fp64 without being told


def make(case: str, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    model = CASES[case]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:  # not a table of sinusoids
                parameter += 0.05 * torch.randn_like(parameter)
        for name, buffer in model.named_buffers():
            if name == "final_logits_bias":
                buffer += 0.05 * torch.randn_like(buffer)
    return model


def saved(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    TOKENIZER.save(folder)
    return folder


class References:
    """The reference of each case and its folder, made once for all tests."""

    def __init__(self, root: Path):
        self.root = root
        self.theirs = cache(make)
        self.folder = cache(lambda case: saved(self.theirs(case), self.root / case.replace(" ", "-")))

    def ours(self, case: str, dtype: torch.dtype | None = None) -> Transformer:
        return open_model(self.folder(case), dtype=dtype)[0]


@pytest.fixture(scope="session")
def references(tmp_path_factory: pytest.TempPathFactory) -> References:
    return References(tmp_path_factory.mktemp("references"))


@contextmanager
def no_casts_to_fp32() -> Iterator[None]:
    """In which `transformers` stays in fp64 where its code casts to fp32: norms, rotations, softmax, routers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "float32", torch.float64)
        patch.setattr(torch, "float", torch.float64)
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(FP32)


def tokens(rows: int = 4, length: int = 24, seed: int = 1) -> torch.Tensor:
    return torch.randint(110, VOCABULARY - 40, (rows, length), generator=torch.Generator().manual_seed(seed))


def target(rows: int = 4, length: int = 15) -> torch.Tensor:
    return torch.cat((torch.full((rows, 1), START), tokens(rows, length - 1, seed=2)), 1)


def padded(side: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of 24, 17, 9 and 1 real tokens and their mask; what stands in the padding is <|pad|>."""
    ids, lengths = tokens(), torch.tensor([24, 17, 9, 1])[:, None]
    places = torch.arange(24)[None]
    mask = places < lengths if side == "right" else places >= 24 - lengths
    return torch.where(mask, ids, TOKENIZER.pad), mask


def distance(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest difference, as a share of the range of the reference's logits."""
    return float((ours - theirs).abs().max() / (theirs.max() - theirs.min()))
