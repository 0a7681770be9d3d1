"""A folder of Marian's with the tokenizer that it brings: imported, asked, trained on, opened by `transformers` again."""

import json
import random
from typing import Any

import pytest
import torch
import transformers

import fledge
from fledge.adapt.folder import open_model
from fledge.data.batches import Pairs
from fledge.text import Tokenizer

pytest.importorskip("sentencepiece")
from tests.text.translators import write_marian

pytestmark = pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")
WORDS = {"eins": "one", "zwei": "two", "drei": "three", "vier": "four", "und": "and", "oder": "or", "mal": "times", "minus": "minus"}


@pytest.fixture(scope="module")
def sentences():
    dice = random.Random(0)
    sources = [dice.choices(list(WORDS), k=4) for _ in range(200)]
    return [" ".join(words) for words in sources], [" ".join(map(WORDS.__getitem__, words)) for words in sources]


@pytest.fixture(scope="module")
def published(sentences, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "opus"
    vocabulary = write_marian(folder, sentences[0], sentences[1], 40)
    pad, banned = vocabulary["<pad>"], [[vocabulary[name]] for name in ("<pad>", "<unk>", "<s>")]
    shape: dict[str, Any] = {
        "vocab_size": len(vocabulary), "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "max_position_embeddings": 64, "eos_token_id": 0,
        "pad_token_id": pad, "decoder_start_token_id": pad, "forced_eos_token_id": None, "scale_embedding": True,
        "activation_function": "swish",
    }  # fmt: skip
    torch.manual_seed(0)
    model = transformers.MarianMTModel(transformers.MarianConfig(**shape)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    model.generation_config = transformers.GenerationConfig(
        num_beams=2, bad_words_ids=banned, max_length=64, eos_token_id=0, pad_token_id=pad, decoder_start_token_id=pad
    )
    model.save_pretrained(folder)
    return folder


def opened(folder) -> Any:
    return transformers.AutoTokenizer.from_pretrained(folder)


def translations(folder, texts, **settings):
    model: Any = transformers.MarianMTModel.from_pretrained(folder).eval()
    words = opened(folder)
    made = [model.generate(**words(text, return_tensors="pt"), do_sample=False, **settings) for text in texts]
    return [words.decode(tokens[0], skip_special_tokens=True) for tokens in made]


def test_it_translates_as_in_transformers(published, sentences, tmp_path, command):
    assert command("import", published, "--out", tmp_path / "ours").code == 0
    assert not (tmp_path / "ours" / "tokenizer.json").exists()
    texts = [*sentences[0][:5], "fünf und eins"]
    expected = translations(published, texts, max_new_tokens=12)
    assert len(set(expected)) > 1
    assert translations(tmp_path / "ours", texts, max_new_tokens=12) == expected
    for text, target in zip(texts, expected, strict=True):
        said = command("generate", tmp_path / "ours", text, "--max-tokens", 12)
        assert said.code == 0, said.err
        assert said.out.strip() == target
    assert fledge.load(tmp_path / "ours").generate(texts[0], max_tokens=12, beams=1).strip() == translations(
        published, texts[:1], max_new_tokens=12, num_beams=1
    )[0]  # fmt: skip


def test_pairs_are_framed_as_by_transformers(published, sentences):
    ours, (sources, targets) = Tokenizer.load(published), (side[:8] for side in sentences)
    pairs = Pairs(sources, targets, ours, start=ours.pad, context=64, batch=8)
    rows = opened(published)(sources, text_target=targets)
    assert [tokens.tolist() for tokens in pairs._sources] == rows.input_ids
    assert [tokens.tolist() for tokens in pairs._targets] == rows.labels


@pytest.mark.parametrize("adapter", [[], ["--lora", 4]])
def test_it_learns_from_pairs(published, sentences, tmp_path, command, adapter):
    rows = [{"source": source, "target": target} for source, target in zip(*sentences, strict=True)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = ["finetune", "pairs", tmp_path / "pairs.jsonl", "--from", published, "--out", tmp_path / "m", "--epochs", 1, "--json"]
    done = command(*words, *adapter, "--set", "optimizer.rate=1e-2", "--set", "batch.rows=16")
    assert done.code == 0, done.err
    before, after = (open_model(folder)[1] for folder in (published, tmp_path / "m"))
    assert (tmp_path / "m" / "source.spm").is_file()
    assert after.fingerprint() == before.fingerprint()
    rows = map(json.loads, (tmp_path / "m" / "run" / "metrics.jsonl").read_text().splitlines())
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses[-1] < losses[0] - 1
    if not adapter:
        transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "m")


def test_a_corpus_may_be_cut_by_what_it_reads(published, sentences, tmp_path, command):
    (tmp_path / "text.txt").write_text("\n\n".join(sentences[0]))
    said = command("prepare", tmp_path / "text.txt", "--out", tmp_path / "corpus", "--tokenizer", published)
    assert said.code == 0, said.err
    assert Tokenizer.load(tmp_path / "corpus").fingerprint() == Tokenizer.load(published).fingerprint()
    assert command("show", tmp_path / "corpus").code == 0
