"""Every family against `transformers`: scores, gradients, padding, packing, caches, and both ways through a folder."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from fledge.arch import Choice
from fledge.model import Transformer, with_new_head
from fledge.model.view import PADDING
from fledge.weights.families import classifier, family_of
from fledge.weights.files import Stored, read_json, save_tensors, sha256
from fledge.weights.folder import open_model, save_model
from fledge.weights.rules import write
from tests.weights.references import (
    CASES,
    CLASSIFIERS,
    CONTEXT,
    DECODERS,
    ENCODERS,
    LABELS,
    PAIRS,
    START,
    TOKENIZER,
    TRAINED,
    References,
    distance,
    make,
    no_casts_to_fp32,
    padded,
    references,
    saved,
    target,
    tokens,
)

__all__ = ["references"]
AT_THE_FIRST = {("left", f"{family} classes") for family in ("bert", "roberta", "distilbert", "electra")}
FROM_BOTH = [case for case in CLASSIFIERS if case.split()[0] in ("bart", "t5")]
GENERATING = [*DECODERS, *PAIRS]
OWN = ("llama 3", "phi3 long", "qwen3 moe", "t5 1.1")  # as different as families are
USUAL = [case for case in GENERATING if " " not in case or case in OWN]
OPENERS = {
    "classes": transformers.AutoModelForSequenceClassification,
    "pairs": transformers.AutoModelForSeq2SeqLM,
    "decoder": transformers.AutoModelForCausalLM,
    "words": transformers.AutoModelForMaskedLM,
    "replaced": transformers.AutoModelForPreTraining,
    "hidden": transformers.AutoModel,
}


def rest(cases: list[str]) -> list[Any]:
    """Variations of a family that only the slow tests go through."""
    return [case if case in USUAL else pytest.param(case, marks=pytest.mark.slow) for case in cases]


def ends(case: str, ids: Tensor) -> Tensor:
    """The reference of a classifier with two trunks reads where the text ends with an end-of-text token."""
    return torch.cat((ids[:, :-1], torch.zeros_like(ids[:, -1:])), 1) if case in FROM_BOTH else ids


def ours_of(case: str, model: Transformer, ids: Tensor, positions: Tensor | None = None, document: Tensor | None = None) -> Tensor:
    if case in PAIRS:
        return model(target(len(ids)), memory=model.encode(ids, positions, document))
    return model(ids, positions, document)


def theirs_of(case: str, model: Any, ids: Tensor, mask: Tensor | None = None, positions: Tensor | None = None) -> Tensor:
    more: dict[str, Any] = {} if mask is None else {"attention_mask": mask.long()}
    if case in PAIRS:
        more["decoder_input_ids"] = target(len(ids))
    elif case in FROM_BOTH and mask is not None and positions is not None:  # left to themselves their decoders look at padding
        later = torch.where(positions == 0, START, ids.roll(1, 1))
        more |= {"decoder_input_ids": later, "decoder_attention_mask": mask.long()}
    elif positions is not None and case not in FROM_BOTH:
        offset = TOKENIZER.pad + 1 if case.startswith("roberta") else 0
        more["position_ids"] = positions + offset * (mask if mask is not None else 1)
    found = model(ids, **more)
    return found.logits if hasattr(found, "logits") else found.last_hidden_state


def gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    """Zero where a parameter has no part in the scores."""
    return {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_equal_scores(case: str, references: References):
    ids = ends(case, tokens())
    expected = theirs_of(case, references.theirs(case), ids)
    assert distance(ours_of(case, references.ours(case), ids), expected) <= 2e-6


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_equal_scores_in_fp64(case: str, references: References):
    ids, weights = ends(case, tokens()), references.theirs(case).state_dict()
    with no_casts_to_fp32():
        exact = make(case).double()
        exact.load_state_dict(weights)
        if hasattr(exact, "set_experts_implementation"):
            exact.set_experts_implementation("eager")  # their grouped product knows no fp64
        expected = theirs_of(case, exact, ids)
    assert distance(ours_of(case, references.ours(case, torch.float64), ids), expected) <= 1e-12


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_bf16_is_as_near_to_fp32_as_the_reference(case: str, references: References):
    """Row by row, the mean square and its logarithm: no worse by more than three standard errors of the difference of the two.

    The logarithm tells the usual row where a few, whose rounding sent a token to another expert, decide the mean.
    """
    ids = ends(case, tokens(256 if case in CLASSIFIERS else 32))
    exact = theirs_of(case, references.theirs(case), ids)
    rounded = make(case)
    rounded.load_state_dict(references.theirs(case).state_dict())
    theirs = theirs_of(case, rounded.bfloat16(), ids).float()
    ours = ours_of(case, references.ours(case, torch.bfloat16), ids)
    own, given = ((scores - exact).square().flatten(1).mean(1).clamp(min=1e-12) for scores in (ours, theirs))
    for excess in (own - given, own.log() - given.log()):
        assert excess.mean() <= 3 * excess.std() / len(excess) ** 0.5


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_equal_scores_with_padding(case: str, side: str, references: References):
    ids, mask = padded(side)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    if case in FROM_BOTH:
        ids = ids.scatter(1, (torch.arange(24) * mask).argmax(1, keepdim=True), 0)  # the end of text that they read at
    if case in (*PAIRS, "bart classes"):
        positions = torch.arange(24)[None].expand(4, -1)  # they count from the padding on
    theirs = references.theirs(case)
    ours = ours_of(case, references.ours(case), ids, positions, torch.where(mask, 0, PADDING))
    if (side, case) in AT_THE_FIRST:  # where they would read padding, each row stands alone
        expected = torch.cat([theirs_of(case, theirs, row[real][None]) for row, real in zip(ids, mask, strict=True)])
    else:
        expected = theirs_of(case, theirs, ids, mask, positions)
    chosen = mask if ours.shape[:2] == mask.shape and case not in PAIRS else slice(None)
    assert distance(ours[chosen], expected[chosen]) <= 2e-6


@pytest.mark.parametrize("case", [case for case in [*DECODERS, *ENCODERS] if case in USUAL or case in ENCODERS])
@torch.no_grad()
def test_packed_documents_are_as_the_reference_reads_them_apart(case: str, references: References):
    lengths = [7, 1, 16]
    parts = tokens(1, sum(lengths)).split(lengths, 1)
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    document = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths))[None]
    expected = torch.cat([theirs_of(case, references.theirs(case), part) for part in parts], 1)
    assert distance(references.ours(case)(torch.cat(parts, 1), positions, document), expected) <= 2e-6


@pytest.mark.parametrize("case", PAIRS)
@torch.no_grad()
def test_packed_pairs_are_as_the_reference_reads_them_apart(case: str, references: References):
    """Two sources in one row, two targets in another: each target looks across at its own source alone."""
    model, theirs = references.ours(case), references.theirs(case)
    sources, targets = tokens(1, 20).split([13, 7], 1), (target(1, 5), target(1, 9))
    expected = torch.cat([theirs(s, decoder_input_ids=t).logits for s, t in zip(sources, targets, strict=True)], 1)

    def packed(parts: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
        lengths = [part.shape[1] for part in parts]
        places = torch.cat([torch.arange(n) for n in lengths])[None]
        return torch.cat(parts, 1), places, torch.repeat_interleave(torch.arange(2), torch.tensor(lengths))[None]

    memory = model.encode(*packed(sources))
    assert distance(model(*packed(targets), memory=memory), expected) <= 2e-6


@pytest.mark.parametrize("length", [TRAINED, TRAINED + 1, 2 * TRAINED])
@torch.no_grad()
def test_long_texts_are_turned_by_other_angles(length: int, references: References):
    """The reference chooses for a whole batch, by its longest row; here each document is turned as it would be alone."""
    theirs, ours = references.theirs("phi3 long"), references.ours("phi3 long")
    long, short = tokens(1, length), tokens(1, 9, seed=2)
    alone, beside = theirs(long).logits, theirs(short).logits
    assert distance(ours(long), alone) <= 2e-6
    whole = torch.cat((long, short), 1)
    places = torch.cat((torch.arange(length), torch.arange(9)))[None]
    document = (torch.arange(length + 9) >= length).long()[None]
    assert distance(ours(whole, places, document), torch.cat((alone, beside), 1)) <= 2e-6
    rows = torch.cat((long, torch.nn.functional.pad(short, (0, length - 9), value=TOKENIZER.pad)))
    document = torch.where(torch.arange(length) < torch.tensor([[length], [9]]), 0, PADDING)
    together = ours(rows, torch.arange(length).expand(2, -1), document)
    assert distance(together[:1], alone) <= 2e-6
    assert distance(together[1:, :9], beside) <= 2e-6


@pytest.mark.parametrize("steps", [[30, 9, 1, 1, 20], [38, 7], [9, 71]], ids=str)
@torch.no_grad()
def test_a_cache_is_read_again_where_a_text_grows_long(steps: list[int], references: References):
    """As the reference does when it generates; a row beside that stays short is left as it is, and the slots may be any."""
    ours, slots = references.ours("phi3 long"), torch.tensor([2, 0])
    long, short = tokens(1, sum(steps)), tokens(1, len(steps), seed=2)
    cache = ours.cache(3, 128)
    seen, done = [], 0
    for number, step in enumerate(steps):
        beside = torch.nn.functional.pad(short[:, number : number + 1], (0, step - 1))
        document = torch.zeros(2, step, dtype=torch.long)
        document[1, 1:] = PADDING
        states = ours(torch.cat((long[:, done : done + step], beside)), None, document, cache, slots)
        cache.keep(0, number + 1)
        done += step
        seen.append(states[1, 0])
        assert distance(states[:1], ours(long[:, :done])[:, -step:]) <= 2e-6
    assert distance(torch.stack(seen)[None], ours(short)) <= 2e-6


@pytest.mark.parametrize("case", CASES)
def test_every_gradient_of_one_step(case: str, references: References, tmp_path: Path):
    """By the names that a file has: the reference saves its gradients as if they were weights."""
    theirs = make(case)
    theirs.load_state_dict(references.theirs(case).state_dict())
    ours = references.ours(case)
    ids = ends(case, tokens())
    for scores in (ours_of(case, ours, ids), theirs_of(case, theirs, ids)):
        toward = torch.randn(scores.shape, generator=torch.Generator().manual_seed(3))
        (scores * toward).sum().backward()
    got = dict(write(family_of(theirs.config.to_dict()).table(ours.arch), gradients(ours)))
    with torch.no_grad():
        for name, gradient in gradients(theirs).items():
            theirs.get_parameter(name).copy_(gradient)
    theirs.save_pretrained(tmp_path)
    expected = load_file(tmp_path / "model.safetensors")
    expected.pop("final_logits_bias", None)  # a buffer there
    assert expected.keys() == got.keys() - {"final_logits_bias"}
    for name, gradient in expected.items():
        assert (got[name] - gradient).abs().max() <= 1e-5 * gradient.abs().max(), name


def opener(case: str) -> Any:
    if case in CLASSIFIERS:
        return OPENERS["classes"]
    if case in PAIRS:
        return OPENERS["pairs"]
    if case in ENCODERS:
        return OPENERS[{"minilm": "hidden", "electra": "replaced"}.get(case.split()[0], "words")]
    return OPENERS["decoder"]


@pytest.mark.parametrize("case", CASES)
def test_written_again_the_tensors_are_the_same_bit_for_bit_and_transformers_opens_them(case: str, references: References, tmp_path: Path):
    theirs, folder = references.theirs(case), references.folder(case)
    ours, _, facts = open_model(folder)
    save_model(tmp_path, ours, TOKENIZER, None, facts, None, "# tiny")
    first, second = Stored(folder), Stored(tmp_path)
    assert set(first.place) == set(second.place)
    for name in first.place:
        assert torch.equal(first.tensor(name).view(torch.uint8), second.tensor(name).view(torch.uint8)), name
    assert read_json(tmp_path / "config.json")["model_type"] == theirs.config.model_type
    again, report = opener(case).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    assert type(again) is type(theirs)
    ids = ends(case, tokens())
    with torch.no_grad():
        assert torch.equal(theirs_of(case, again.eval(), ids), theirs_of(case, theirs, ids))
    if ours.arch.labels:
        assert again.config.id2label == LABELS["id2label"]
    model, _, _ = open_model(tmp_path)
    assert model.arch == ours.arch
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor.view(torch.uint8), ours.state_dict()[name].view(torch.uint8)), name


@pytest.mark.parametrize("case", rest(GENERATING))
@torch.no_grad()
def test_the_same_256_greedy_tokens_with_a_cache(case: str, references: References, tmp_path: Path):
    ours, _, facts = open_model(references.folder(case))
    save_model(tmp_path, ours, TOKENIZER, None, facts, {"max_new_tokens": 256}, "# tiny")
    theirs = opener(case).from_pretrained(tmp_path)
    prompt = tokens(1, 8)
    expected = theirs.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False, eos_token_id=None)[0]
    memory = ours.encode(prompt) if case in PAIRS else None
    row = torch.tensor([[START]]) if case in PAIRS else prompt
    cache, written = ours.cache(1, CONTEXT), row[0].tolist()
    for _ in range(256):
        row = ours(row, cache=cache, memory=memory)[:, -1].argmax(-1, keepdim=True)
        written.append(int(row))
    assert written == expected.tolist()


@pytest.mark.parametrize("case", rest(GENERATING))
@torch.no_grad()
def test_padded_prompts_are_continued_as_the_reference_continues_them(case: str, references: References):
    """Prompts of four lengths side by side, padded on the left; sources, as is usual, on the right."""
    ours, steps = references.ours(case), 15
    ids, mask = padded("right" if case in PAIRS else "left")
    expected = references.theirs(case).generate(ids, attention_mask=mask.long(), do_sample=False, max_new_tokens=steps, eos_token_id=None)[
        :, -steps:
    ]
    cache, document, lengths = ours.cache(4, 64), torch.where(mask, 0, PADDING), mask.sum(1, keepdim=True)
    memory = ours.encode(ids, None, document) if case in PAIRS else None
    if case in PAIRS:
        scores = ours(torch.full((4, 1), START), cache=cache, memory=memory)
    else:
        scores = ours(ids, (mask.cumsum(1) - 1).clamp(min=0), document, cache)
    written = [scores[:, -1].argmax(-1, keepdim=True)]
    for step in range(steps - 1):
        places = torch.full((4, 1), step + 1) if case in PAIRS else lengths + step
        written.append(ours(written[-1], places, cache=cache, memory=memory)[:, -1].argmax(-1, keepdim=True))
    assert torch.cat(written, 1).tolist() == expected.tolist()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_kept_bit_for_bit(dtype: torch.dtype, tmp_path: Path):
    theirs = make("gpt2").to(dtype)
    ours, _, _ = open_model(saved(theirs, tmp_path / "theirs"))
    assert {parameter.dtype for parameter in ours.parameters()} == {dtype}
    save_model(tmp_path / "ours", ours, TOKENIZER, None, {}, None, "# tiny", dtype=dtype)
    assert read_json(tmp_path / "ours" / "config.json")["dtype"] == str(dtype).removeprefix("torch.")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    for (name, got), expected in zip(again.named_parameters(), theirs.parameters(), strict=True):
        assert got.dtype == dtype, name
        assert torch.equal(got, expected), name


def test_a_bare_trunk_and_old_buffers_are_read(references: References, tmp_path: Path):
    theirs = references.theirs("gpt2")
    bare = {name.removeprefix("transformer."): tensor for name, tensor in theirs.transformer.state_dict().items()}
    for i in range(3):
        bare |= {f"h.{i}.attn.bias": torch.ones(1, 1, 8, 8), f"h.{i}.attn.masked_bias": torch.tensor(-1e4)}
    save_tensors(bare.items(), saved(theirs, tmp_path))
    ours, _, _ = open_model(tmp_path)
    with torch.no_grad():
        assert distance(ours(tokens()), theirs(tokens()).logits) <= 2e-6


@torch.no_grad()
def test_what_older_copies_of_bert_hold_is_read(references: References, tmp_path: Path):
    """Gains and biases called gamma and beta, the head stored twice, a pooler and a guess of the next sentence beside it."""
    theirs = references.theirs("bert")
    folder = saved(theirs, tmp_path)
    stored = load_file(folder / "model.safetensors")
    older = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): t for name, t in stored.items()
    }
    older["cls.predictions.decoder.weight"] = stored["bert.embeddings.word_embeddings.weight"].clone()
    older |= {"bert.pooler.dense.weight": torch.ones(32, 32), "bert.pooler.dense.bias": torch.ones(32)}
    older |= {"cls.seq_relationship.weight": torch.ones(2, 32), "cls.seq_relationship.bias": torch.ones(2)}
    save_tensors(older.items(), folder)
    ours, _, _ = open_model(folder)
    assert distance(ours(tokens()), theirs(tokens()).logits) <= 2e-6


@torch.no_grad()
def test_segments_are_told_apart(references: References):
    types = (torch.arange(24) > 9).long()[None].expand(4, -1)
    expected = references.theirs("bert")(tokens(), token_type_ids=types).logits
    assert distance(references.ours("bert")(tokens(), types=types), expected) <= 2e-6
    assert distance(references.ours("bert")(tokens()), expected) > 1e-3


@torch.no_grad()
def test_sentence_embeddings_are_those_of_sentence_transformers(references: References):
    """The mean over what is no padding, of length one: what modules.json of the published MiniLM lists (Pooling, Normalize)."""
    from fledge.model.head import pooled

    ids, mask = padded("right")
    states = references.theirs("minilm")(ids, attention_mask=mask.long()).last_hidden_state
    expected = F.normalize((states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True), dim=-1)
    document = torch.where(mask, 0, PADDING)
    hidden = references.ours("minilm")(ids, (mask.cumsum(1) - 1).clamp(min=0), document)
    torch.testing.assert_close(F.normalize(pooled(hidden, document, "mean"), dim=-1), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("case", "choice"),
    [
        ("gpt2", "ordinal"), ("qwen3", "single"), ("gemma3", "several"), ("bert", "ordinal"), ("roberta", "single"),
        ("distilbert", "several"), ("electra", "single"), ("modernbert", "several"), ("bart", "ordinal"), ("t5", "several"),
    ],
)  # fmt: skip
def test_a_classifier_made_of_a_model_opens_as_its_familys(case: str, choice: Choice, references: References, tmp_path: Path):
    model, _, facts = open_model(references.folder(case))
    made = with_new_head(model, classifier(model.arch, ["ham", "spam"], choice, facts["names"]), seed=1).eval()
    save_model(tmp_path, made, TOKENIZER, None, facts, None, "# tiny")
    theirs: Any = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert theirs.config.model_type == references.theirs(case).config.model_type
    assert theirs.config.id2label == {0: "ham", 1: "spam"}
    assert theirs.config.problem_type == ("multi_label_classification" if choice == "several" else "single_label_classification")
    assert open_model(tmp_path)[0].arch.choice == choice
    ids = tokens()
    if case in ("bart", "t5"):
        ids = ends(f"{case} classes", ids)
    with torch.no_grad():
        assert distance(made(ids), theirs_of(f"{case} classes", theirs, ids)) <= 2e-6


def test_a_tied_head_may_be_stored_twice_but_not_differ(references: References, tmp_path: Path):
    theirs = references.theirs("gpt2")
    folder = saved(theirs, tmp_path)
    tensors = {name: tensor.clone() for name, tensor in theirs.state_dict().items()}
    save_tensors(tensors.items(), folder)
    ours, _, _ = open_model(folder)
    assert ours.head.weight is ours.embedding.weight
    tensors["lm_head.weight"][0, 0] += 1
    save_tensors(tensors.items(), folder)
    with pytest.raises(ValueError, match=r"lm_head\.weight differs"):
        open_model(folder)


@torch.no_grad()
def test_whether_t5_is_tied_its_file_tells(references: References, tmp_path: Path):
    """Whatever config.json says: an equal copy is the embedding, another tensor is a head of its own."""
    theirs = references.theirs("t5")
    folder = saved(theirs, tmp_path)
    copies = ("lm_head.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
    stored = {**load_file(folder / "model.safetensors"), **{name: theirs.shared.weight.clone() for name in copies}}
    save_tensors(stored.items(), folder)
    ours, _, _ = open_model(folder)
    assert ours.head.weight is ours.embedding.weight
    expected = theirs(tokens(), decoder_input_ids=target()).logits
    assert distance(ours(target(), memory=ours.encode(tokens())), expected) <= 2e-6
    save_tensors({**stored, "lm_head.weight": 2 * theirs.shared.weight}.items(), folder)
    ours, _, _ = open_model(folder)
    assert ours.head.weight is not ours.embedding.weight
    assert distance(ours(target(), memory=ours.encode(tokens())), 2 * expected) <= 2e-6


def test_training_an_opened_model_leaves_its_file_alone(tmp_path: Path):
    folder = saved(make("qwen3 tied"), tmp_path)
    before = sha256(folder / "model.safetensors")
    model, _, _ = open_model(folder)
    assert model.head.weight is model.embedding.weight
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model(tokens()).square().mean().backward()
    optimizer.step()
    assert sha256(folder / "model.safetensors") == before
    fresh, _, _ = open_model(folder)
    assert all(not torch.equal(a, b) for a, b in zip(model.parameters(), fresh.parameters(), strict=True))
