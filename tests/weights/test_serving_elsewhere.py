"""A model folder has all that vLLM asks of one: what transformers reads of it, and what vLLM's own pages name."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from fledge.text.bulk import LLAMA3
from fledge.text.chat import FORMATS, Message
from fledge.weights.folder import save_model, stops
from tests.formats.models import RELATIVES, SHAPES, perturbed, words

# docs.vllm.ai, "Supported Models": it looks the first name of `architectures` up.
SERVED = (
    "GPT2LMHeadModel", "LlamaForCausalLM", "MistralForCausalLM", "MixtralForCausalLM", "Olmo2ForCausalLM", "Qwen2ForCausalLM",
    "Qwen3ForCausalLM", "Qwen3MoeForCausalLM",
)  # fmt: skip
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 2 + 2?\n\nAnd why?"}]
GENERATION = {"do_sample": True, "temperature": 0.5, "top_p": 0.9}


@pytest.fixture(scope="module", params=["gpt2", "default", "llama", "mistral"])
def folder(request, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("served") / request.param
    model = perturbed({**SHAPES, **RELATIVES}[request.param])
    save_model(out, model, words(LLAMA3), "chatml", {}, GENERATION, "# served", torch.bfloat16)
    return out


def test_its_config_names_what_is_served(folder):
    config: Any = transformers.AutoConfig.from_pretrained(folder)
    told = json.loads((folder / "config.json").read_text())
    assert told["architectures"][0] in SERVED
    assert "auto_map" not in told  # code that it would have to trust
    assert config.dtype == torch.bfloat16
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    assert (size % 8, size <= 256) == (0, True)  # FlashAttention's sizes
    theirs: Any = transformers.AutoTokenizer.from_pretrained(folder)
    assert config.max_position_embeddings == theirs.model_max_length
    assert config.vocab_size >= len(theirs)


def test_its_weights_are_all_there_under_the_names_of_transformers(folder):
    _, report = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert {path.suffix for path in folder.iterdir()} <= {".json", ".jinja", ".md", ".safetensors"}  # no pickle


def test_its_tokenizer_reads_texts_and_chats_as_ours(folder):
    theirs: Any = transformers.AutoTokenizer.from_pretrained(folder)
    ours = words(LLAMA3)
    text = "It's 1234 o'clock, naïve Ünïcode.\n\n  def f(x): 中文"
    assert theirs(text)["input_ids"] == ours.encode(text)
    wanted = FORMATS["chatml"].encode(ours, [Message(**message) for message in MESSAGES], answer=True).tokens
    rendered = theirs.apply_chat_template(MESSAGES, add_generation_prompt=True, tokenize=False)
    assert theirs(rendered, add_special_tokens=False)["input_ids"] == wanted


def test_its_generation_config_ends_an_answer_and_has_the_settings(folder):
    found = transformers.GenerationConfig.from_pretrained(folder)
    assert found.eos_token_id == stops("chatml", words(LLAMA3)) == [0, words(LLAMA3).special("<|im_end|>")]
    assert {name: getattr(found, name) for name in GENERATION} == GENERATION


def test_the_page_says_one_command_for_each():
    page = (Path(__file__).parents[2] / "docs" / "serving-elsewhere.md").read_text(encoding="utf-8")
    assert page.count("\nvllm serve runs/assistant ") == 1
    assert page.count("\nfledge export runs/assistant ") == 1
    assert all(name.removesuffix("LMHeadModel").removesuffix("ForCausalLM") in page for name in SERVED)
