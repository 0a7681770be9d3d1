"""The verb: what there is to measure on decides how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from fledge.verbs.model import Model, Precision, load
from fledge.verbs.scoring.judges import Judging, judge_of
from fledge.verbs.scoring.labels import classifier_scores
from fledge.verbs.scoring.leaks import leakage
from fledge.verbs.scoring.questions import Asked, question_scores, scorers_of, shots_of
from fledge.verbs.scoring.results import Evaluated
from fledge.verbs.scoring.targets import pair_scores
from fledge.verbs.scoring.tasks import task_scores
from fledge.verbs.scoring.texts import forgotten, held_out_texts, language_scores, own_corpus, parent_of, samples, speeds
from fledge.verbs.session import Column, Name, Place, refuse_unknown, texts_of

Counts = Annotated[str, Parameter(metavar="N,...")]
Names = Annotated[str, Parameter(metavar="NAME,...")]
Pattern = Annotated[str, Parameter(metavar="PATTERN")]
Text = Annotated[str, Parameter(metavar="TEXT")]


def evaluate(
    model: Sequence[str],
    /,
    *,
    on: str | None = None,
    tasks: Names | None = None,
    fresh: bool = False,
    leaks: bool = False,
    canaries: Place | None = None,
    score: Names | None = None,
    regex: Pattern | None = None,
    scorer: Place | None = None,
    judge: Name | None = None,
    judge_model: Text | None = None,
    judging: Judging = "score",
    shots: Counts | None = None,
    shots_from: Place | None = None,
    sets: int = 2,
    orders: int = 2,
    template: Text | None = None,
    max_tokens: int | None = None,
    text_column: Column | None = None,
    label_column: Column | None = None,
    source_column: Column | None = None,
    target_column: Column | None = None,
    beams: int | None = None,
    lowercase: bool = False,
    out: Place | None = None,
    seed: int = 0,
    device: str = "auto",
    dtype: Precision = "float32",
    threads: int = 0,
) -> Evaluated:
    """Measure models: on text they were not trained on, on labelled rows, on pairs, or on a test of one's own.

    Without more: bits per byte and perplexity by source, speed and memory, and samples. Of two models or more the differences are told
    too, and of a fine-tuned one what it has forgotten of its parent's text.

    Args:
        model: one or more model folders or hub ids; all are measured on the same data.
        on: text, a corpus (its held-out part), labelled rows, pairs, or a test: a table with question and answer (or answers, or choices
            and answer), instruction and output, or messages. By default what the model's own corpus held out.
        tasks: published tasks that lm-evaluation-harness runs: by name, as NAME=FILE with items of one's own file, or a YAML file.
        fresh: of tasks: answer again what was answered before and kept.
        leaks: instead: how much of its training text (its own corpus, or --on) it gives away, word for word, and of personal data.
        canaries: of that too: how exposed planted secrets are: a table with text, which has {} where the secret stood, and secret.
        score: of a test or pairs: exact, f1, bleu, chrf, rouge; by default exact,f1 of a test and bleu,chrf,rouge of pairs.
        regex: of a test: whether what this pattern finds last (its first group) in an answer is what it finds in the accepted one.
        scorer: of a test: FILE.py with a function score(answer, item) that gives a number, or FILE.py:NAME.
        judge: of a test: who else judges what is written: a model folder, a hub id, or the URL of an OpenAI-compatible endpoint
            (its key, if it needs one, in FLEDGE_JUDGE_KEY).
        judge_model: which model of the endpoint; by default the first that it lists.
        judging: a score from 0 to 100 for each answer, or of several models' answers in pairs which is better, in both orders.
        shots: how many worked examples stand before each question, such as 0,1,5; by default none, or as many as a task says.
        shots_from: the test to take them from; by default the same, without the question itself.
        sets: how often examples are drawn by the seed.
        orders: in how many orders each set of them is tried.
        template: how questions stand in plain text, for a model that does not converse: with {question}, and {answer} at its end.
        max_tokens: of an answer; by default twice as many as the longest accepted one.
        text_column: the column of the texts of a table; guessed and said when not given.
        label_column: the column of the labels of a table; guessed and said when not given.
        source_column: of pairs: the column of the sources, or the ending of their file; by default as the model learned.
        target_column: of pairs: the column of the targets, or the ending of their file; by default as the model learned.
        beams: search for targets with that many beams; by default as the model's folder says.
        lowercase: count BLEU, chrF and exact match on lower-cased text.
        out: an HTML page to write all of it to.
        seed: of the examples and samples.
        device: auto, cpu or cuda.
        dtype: of the weights and products; int8 holds the weights of the blocks in 8 bits.
        threads: CPU threads; 0 leaves the number to torch.
    """
    names = texts_of(model)
    opened = [load(name, device, dtype, threads) for name in names]
    alike(names, opened)
    on = str(on) if on is not None else None
    refuse_unknown(judging, Judging, "--judging")
    writers = not opened[0].arch.labels and len(opened[0].arch.stacks) == 1
    secrets = leaks or canaries is not None
    tested = any(given is not None for given in (regex, scorer, shots_from, template, judge))
    if not writers and (tasks is not None or secrets or tested or shots is not None):
        raise ValueError(f"{names[0]} does not go on from text, as tasks, leaks, and questions with examples, patterns and judges need it")
    if tasks is not None and on is not None:
        raise ValueError("--on and --tasks are two evaluations: give one of them; a task's own items are named as --tasks NAME=FILE")
    if (tested or score is not None) and (tasks is not None or secrets or opened[0].arch.labels):
        raise ValueError(
            "scorers, examples of one's own, templates and judges are for a test: name one with --on FILE, and nothing else to do"
        )
    if judge is not None and judging == "pairs" and len(names) < 2:
        raise ValueError("--judging pairs needs two models or more, whose answers are compared")
    if tasks is not None:
        found = task_scores(names, opened, tasks, shots, seed, fresh)
    elif secrets:
        found = leakage(names, opened, on, None if canaries is None else str(canaries), seed)
    elif opened[0].arch.labels:
        data = on if on is not None else own_corpus(names[0], opened[0].facts)[0]
        found = classifier_scores(names, opened, data, text_column, label_column)
    elif not writers:
        if on is None:
            raise ValueError("say which pairs to measure on, with --on FILE")
        found = pair_scores(names, opened, on, source_column, target_column, beams, score or "bleu,chrf,rouge", lowercase)
    else:
        wanted = tested or score is not None or shots is not None
        if on is not None and text_column is None and is_test(on, wanted):
            asked = Asked(
                scorers_of(score, regex, None if scorer is None else str(scorer), lowercase),
                shots_of(shots or "0", sets, orders, seed),
                template,
                None if shots_from is None else str(shots_from),
                max_tokens,
                None if judge is None else judge_of(str(judge), judge_model, device),
                judging,
                lowercase,
                seed,
            )
            found = question_scores(names, opened, on, asked)
        elif wanted:
            raise ValueError(f"scorers, examples and templates need a test: name one with --on FILE{'' if on is None else f', not {on}'}")
        else:
            found = on_text(names, opened, on, text_column, seed)
    if writers and not secrets:
        told = (forgotten(name, one, device) for name, one in zip(names, opened, strict=True))
        found = replace(found, forgotten=tuple(one for one in told if one is not None))
    if out is not None:
        found.write(out)
    return found


def alike(names: Sequence[str], models: Sequence[Model]) -> None:
    """Raises `ValueError` unless all classify, all write for a source, or all go on from text."""
    classifiers = [bool(one.arch.labels) for one in models]
    both = [len(one.arch.stacks) == 2 for one in models]
    if any(classifiers) != all(classifiers) or any(both) != all(both):
        raise ValueError("some of these models classify, write, or write for a source, and others do not: evaluate them apart")
    for name, one in zip(names, models, strict=True):
        if one.arch.labels:
            continue
        if len(one.arch.stacks) == 2 and one.learned == "denoise":
            raise ValueError(
                f"{name} learned to fill in gaps and writes no targets: `fledge predict` shows how, and pretrain measures that"
            )
        if not one.arch.writes:
            raise ValueError(
                f"{name} is an encoder and writes no text: `fledge predict` fills in what is masked, and pretrain measures that"
            )


def is_test(on: str, asked: bool) -> bool:
    """Whether a file is read as a test: it has the columns of one, or that was asked for."""
    from fledge.data.tables import is_table
    from fledge.evaluation.items import asks

    return Path(on).is_file() and is_table(on) and (asked or asks(on))


def on_text(names: Sequence[str], models: Sequence[Model], on: str | None, text_column: str | None, seed: int) -> Evaluated:
    """Scores on a text; on what a model's own corpus held out speed and samples too."""
    if on is not None:
        return language_scores(names, models, [on], text_column)
    try:
        corpus = own_corpus(names[0], models[0].facts)
    except ValueError as missing:
        parent = parent_of(names[0], models[0].facts)
        if parent is None:
            raise missing from None
        corpus = parent[1]
    found = language_scores(names, models, corpus, text_column)
    texts = [text for group in held_out_texts(corpus, None).values() for text in group]
    return replace(found, speeds=speeds(names, models, texts[0]), samples=samples(names, models, texts, seed))
