"""What a corpus holds: the same sections as a page, in the terminal, and in the card of a model that was trained on it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fledge.arch.record import from_json, to_json
from fledge.data.tables import counted
from fledge.report import Example
from fledge.verbs import terminal
from fledge.verbs.sections import Content, Examples, Facts, Section, Table, draw, lines_of, markdown

if TYPE_CHECKING:
    from fledge.data.corpus import Corpus
    from fledge.data.profile import Copies, Profile, Seen, Tally
    from fledge.report import Page
    from fledge.report.text import Cell

PAGE, COMPARISON = "corpus.html", "comparison.json"
SAMPLE = 1 << 22  # bytes of the train part on which other tokenizers are tried
ROWS = 30  # of a table by source; the rest is added up
PLACE = 44  # characters of a path that are shown


@dataclass(frozen=True)
class Rate:
    """What a tokenizer made of some text: `tokens`, without those that end documents."""

    name: str
    vocabulary: int | None
    bytes: int
    characters: int
    words: int
    tokens: int

    def row(self) -> tuple[Cell, ...]:
        """Name, vocabulary, tokens, tokens for each byte and word, bytes for each token."""
        return (self.name, self.vocabulary, self.tokens, self.tokens / max(1, self.bytes), self.tokens / max(1, self.words),
                self.bytes / max(1, self.tokens))  # fmt: skip


@dataclass(frozen=True)
class Described:
    """All that is known of a corpus: its `facts` are those of corpus.json."""

    name: str
    corpus: Corpus
    facts: dict[str, Any]
    profile: Profile
    comparison: tuple[Rate, ...]

    @classmethod
    def of(cls, corpus: Corpus) -> Described:
        from fledge.data.corpus import Corpus
        from fledge.data.profile import Profile

        path = corpus.folder / COMPARISON
        compared = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
        name = corpus.folder.absolute().name
        return cls(name, corpus, Corpus.facts(corpus.folder), Profile.of(corpus), from_json(tuple[Rate, ...], compared, COMPARISON))

    def to_json(self) -> dict[str, Any]:
        """The summary, and what stands beside it in corpus.json and profile.json."""
        names = ("settings", "made_of", "contents", "tokenizer", "cleaning")
        more = {"profile": to_json(self.profile), "comparison": to_json(self.comparison), "manifest": manifest_hash(self.corpus.folder)}
        return {**to_json(self.corpus.summary), **{name: self.facts[name] for name in names}, **more}

    def sections(self) -> list[Section]:
        """In the order in which a person asks."""
        made = (
            self.the_sum(), self.sources(), self.lengths(), self.tokens(), self.cleaning(), self.duplicates(), self.contamination(),
            self.unusual(), self.rejected(), self.making(),
        )  # fmt: skip
        return [section for section in made if section.parts]

    def title(self) -> str:
        found = self.corpus.summary
        return (
            f"{found.documents:,} documents with {terminal.memory(found.bytes)} of text: "
            f"{found.train_tokens + found.validation_tokens:,} tokens, kept of {found.items:,} documents and "
            f"{terminal.memory(found.bytes_in)} that came in."
        )

    def the_sum(self) -> Section:
        found, shortened = self.corpus.summary, self.profile.shortened
        left_out = sorted((tally for tally in self.profile.sums("reason") if tally.reason), key=lambda tally: -tally.documents)
        rows: list[tuple[Cell, ...]] = [("came in", found.items, found.bytes_in)]
        rows += [(tally.reason, -tally.documents, -tally.bytes_in) for tally in left_out]
        cleaned = found.changed - shortened.bytes
        rows += [("changed by cleaning", None, -cleaned)] if cleaned else []
        rows += [("repeated paragraphs taken out", None, -shortened.bytes)] if shortened.paragraphs else []
        rows.append(("kept", found.documents, found.bytes))
        said = "Each column adds up, exactly, to its last line; what was left out stands by its reason. "
        said += "Bytes are those of texts as UTF-8; of what gave no text, its own."
        facts = (
            ("files", found.files), ("documents came in", found.items), ("documents kept", found.documents), ("bytes kept", found.bytes),
            ("tokens", found.train_tokens + found.validation_tokens), ("vocabulary", found.vocabulary),
        )  # fmt: skip
        return Section(
            "What came in and what became of it",
            (Facts(facts), Table("The sum", ("", "documents", "bytes"), rows), said),
        )

    def sources(self) -> Section:
        grouped = any(tally.group for tally in self.profile.tallies)
        parts: list[Content] = [self._by("group")] if grouped else []
        parts.append(self._by("source"))
        name = "group" if grouped else "source"
        kept = [tally for tally in self._kept(name)[:12] if tally.tokens]
        if len(kept) > 1:
            shares = [(shortened(named(tally, name), 32), tally.tokens) for tally in kept]
            parts.append(lambda page: page.bars("Where the tokens come from", shares, "tokens"))
        spoken = [tally for tally in self._kept("language") if tally.documents]
        if any(tally.language for tally in spoken):
            rates = [(t.language or "unknown", t.documents, t.bytes, t.tokens, per(t, t.bytes), per(t, t.words)) for t in spoken[:ROWS]]
            columns = ("language", "documents", "bytes", "tokens", "tokens per byte", "tokens per word")
            parts.append(Table("By language, of what is kept", columns, rates))
        else:
            parts.append("Languages were not identified: --language en,de keeps these, --clean web tells which each document is in.")
        left_out = [tally for tally in self.profile.sums(name, "reason") if tally.reason]
        if len({getattr(tally, name) for tally in left_out}) > 1:
            rows = [(place(named(t, name)), t.reason, t.documents, t.bytes_in) for t in sorted(left_out, key=lambda t: named(t, name))]
            parts.append(Table(f"Left out, by {name} and reason", (name, "reason", "documents", "bytes"), rows[: 2 * ROWS]))
        return Section("Where it comes from", tuple(parts))

    def _kept(self, *names: str) -> list[Tally]:
        """The tallies of what is kept."""
        from dataclasses import replace

        kept = tuple(tally for tally in self.profile.tallies if not tally.reason)
        return replace(self.profile, tallies=kept).sums(*names)

    def _by(self, name: str) -> Table:
        names = ("group", "source")[: 1 + (name == "source")]
        kept = {(tally.group, tally.source): tally for tally in self._kept(*names)}
        every, rest = self.profile.sums(*names), [0] * 6
        rows: list[tuple[Cell, ...]] = []
        for came in every:
            own = kept.get((came.group, came.source))
            documents, size, tokens = (own.documents, own.bytes, own.tokens) if own is not None else (0, 0, 0)
            numbers = (came.documents, documents, came.documents - documents, came.bytes_in, size, tokens)
            if len(rows) < ROWS:
                rows.append((place(named(came, name)), *numbers))
            else:
                rest = [one + other for one, other in zip(rest, numbers, strict=True)]
        if len(every) > ROWS:
            rows.append((f"{len(every) - ROWS:,} others", *rest))
        return Table(f"By {name}", (name, "came in", "kept", "left out", "bytes in", "bytes kept", "tokens"), rows)

    def lengths(self) -> Section:
        bins = self.profile.lengths
        rows = [(spanned(b.least), b.documents_in, b.documents, b.documents_in - b.documents, b.bytes_in, b.bytes) for b in bins]
        bars = [(spanned(b.least), b.documents) for b in bins]
        sizes = [(spanned(b.least), b.documents, b.tokens) for b in self.profile.tokens]
        kept = max(1, self.corpus.summary.documents)
        return Section(
            "How long the documents are",
            (
                f"On average {self.corpus.summary.bytes / kept:,.0f} bytes and "
                f"{(self.corpus.summary.train_tokens + self.corpus.summary.validation_tokens) / kept:,.0f} tokens.",
                lambda page: page.bars("Documents kept, by their bytes as they came in", bars, "documents"),
                Table("By bytes, as they came in", ("bytes", "came in", "kept", "left out", "bytes in", "bytes kept"), rows),
                Table("By tokens, as they are kept: what a context holds", ("tokens", "documents", "all their tokens"), sizes),
            ),
        )

    def tokens(self) -> Section:
        corpus = self.corpus
        whole = self._kept()[0]
        splits = [
            (name, shards.documents, shards.bytes, shards.tokens)
            for name, shards in (("to train on", corpus.train), ("held out", corpus.validation))
        ]
        ends = corpus.train.documents + corpus.validation.documents
        own = Rate(f"this corpus's ({corpus.tokenizer.kind})", corpus.tokenizer.size, whole.bytes, whole.characters, whole.words,
                   whole.tokens - ends)  # fmt: skip
        columns = ("tokenizer", "vocabulary", "tokens", "tokens per byte", "tokens per word", "bytes per token")
        parts: list[Content] = [
            Table("The split", ("", "documents", "bytes", "tokens"), splits),
            Table("All of the text", columns, [rate.row() for rate in (own, *plain_rates(own))]),
        ]
        if corpus.mix:
            shares = ", ".join(f"{name} {share:.1%}" for name, share in corpus.mix.items())
            parts.append(f"The groups are trained on in these shares, unless pretrain is given others: {shares}.")
        if self.comparison:
            size = terminal.memory(self.comparison[0].bytes)
            parts.append(Table(f"Beside other tokenizers, on {size} of the text to train on", columns, [r.row() for r in self.comparison]))
        parts.append(
            "Tokens per byte and word leave out the one that ends each document; words are what white space separates. "
            "A document that was cut for the split counts on both sides."
            + ("" if self.comparison else " Other tokenizers stand here with --compare NAME.")
        )
        return Section("Tokens", tuple(parts))

    def cleaning(self) -> Section:
        found, shortened = self.facts["cleaning"], self.profile.shortened
        changed = sorted(found["changed"].items(), key=lambda item: (-abs(item[1]["bytes"]), item[0]))
        parts: list[Content] = []
        if changed:
            rows = [(rule, count["documents"], count["times"], count["bytes"]) for rule, count in changed]
            parts.append(Table("What each rule changed", ("rule", "documents", "times", "bytes"), rows))
            parts.append(
                "Counted over every document that passed cleaning, also where it was left out later as a duplicate or for another reason."
            )
        if found["rejected"]:
            count = sum(rule["documents"] for rule in found["rejected"].values())
            parts.append(f"{counted(count, 'document')} left out by its rules, each of which stands in the sum above.")
        if self.facts["settings"]["paragraphs"]:
            parts.append(
                f"Repeated paragraphs: {counted(shortened.paragraphs, 'paragraph')} that stood elsewhere before taken out of "
                f"{counted(shortened.documents, 'document')}, {shortened.bytes:,} bytes."
                if shortened.paragraphs
                else "No paragraph of 100 characters or more stood elsewhere before."
            )
        if not parts:
            asked = any(value for key, value in self.facts["settings"]["cleaning"].items() if key != "spare_code" and value != "keep")
            parts.append("Cleaning found nothing to change." if asked else "Cleaning was off: every document is as it came.")
        return Section("What cleaning changed", tuple(parts))

    def duplicates(self) -> Section:
        exact, near = self.profile.exact, self.profile.near
        by_reason = {tally.reason: tally.documents for tally in self.profile.sums("reason")}
        said = "Equal are documents that differ in white space or Unicode composition at most; the first of each group is kept."
        parts: list[Content] = [
            f"Exact duplicates: {by_reason.get('duplicate', 0):,} left out. {said}", *copies("Exact duplicates", exact)
        ]  # fmt: skip
        settings = self.facts["settings"]["near"]
        if near is None:
            parts.append("Near duplicates were not looked for: --near-duplicates remove, or keep, which has them on one side of the split.")
        else:
            mode = self.facts["settings"]["near_duplicates"]
            count = by_reason.get("near duplicate", 0)
            became = f"{count:,} left out" if mode == "remove" else "kept, each group on one side of the split"
            parts.append(
                f"Near duplicates: {became}. Those are documents whose sets of {settings['shingle']}-word shingles have a "
                f"Jaccard similarity of {settings['threshold']} or more, compared exactly; candidates are found by MinHash signatures with "
                f"{settings['bands']} bands of {settings['rows']} rows."
            )
            grid = [at / 50 for at in range(51)]
            found = [1 - (1 - at ** settings["rows"]) ** settings["bands"] for at in grid]
            shown = [(f"{grid[at]:.2f}", found[at]) for at in (15, 20, 25, 30, 35, 40, 45)]
            from fledge.report import Line

            curve = [Line("found", grid, found)]
            parts.append(lambda page: page.lines("How surely a pair is looked at", curve, "Jaccard similarity of a pair", "share of pairs"))
            parts.append(Table("The search for near duplicates", ("Jaccard similarity", "share of pairs that are compared"), shown))
            parts += copies("Near duplicates", near)
        return Section("Duplicates", tuple(parts))

    def contamination(self) -> Section:
        given, leaks = self.facts["settings"]["without"], self.profile.leaks
        if not given:
            said = "No evaluation files were given: --without FILE leaves out documents that share 13 words in a row with them."
            return Section("Contamination by evaluations", (said,))
        count = sum(leaks.values())
        parts: list[Content] = [
            f"{counted(count, 'document')} left out for 13 words in a row that stand in {counted(len(given), 'evaluation file')} too, "
            "or for a whole text of them that has fewer."
        ]
        if leaks:
            parts.append(Table("By evaluation file", ("file", "documents"), [(place(file), n) for file, n in leaks.items()]))
            shown = [Example(leak.place, (leak.words,), f"shares this with {leak.file}") for leak in self.profile.leaked]
            parts.append(Examples("Examples", shown))
        return Section("Contamination by evaluations", tuple(parts))

    def unusual(self) -> Section:
        profile = self.profile
        dense, sparse = profile.dense, tuple(seen for seen in profile.sparse if seen not in profile.dense)
        told = (
            "How strange a document is, is measured in tokens for each byte, by this corpus's tokenizer, where it has 256 bytes or more: "
        )
        told += "many are needed for text unlike the rest (another language, code, noise), few for what repeats itself or is commonplace."
        parts: list[Content] = [seen_as("The longest documents", profile.longest)]
        if dense:
            parts += [told, seen_as("The strangest: most tokens per byte", dense)]
        if sparse:
            parts.append(seen_as("The plainest: fewest tokens per byte", sparse))
        return Section("The longest and the strangest documents", tuple(parts))

    def rejected(self) -> Section:
        found = self.corpus.summary
        rows = [place_and_reason(line, reason) for reason, lines in self.profile.rejections.items() for line in lines]
        count = found.items - found.documents
        said = f"{counted(count, 'document')} left out, each with its file, line and reason in rejected.log."
        if not rows:
            return Section("Left out", (said,) if count else ())
        return Section("Left out", (said, Table("For each reason the first that reading or cleaning left out", ("what", "why"), rows)))

    def making(self) -> Section:
        settings = [(name, value) for name, value in flat(self.facts["settings"])]
        contents = self.facts["contents"]
        hashes = (
            ("manifest.json", manifest_hash(self.corpus.folder)), ("shards to train on", contents["train"]),
            ("shards held out", contents["validation"]), ("tokenizer", self.facts["tokenizer"]),
            ("sources and settings", self.facts["made_of"]),
        )  # fmt: skip
        return Section(
            "How it was made",
            (
                Table("Settings", ("setting", "value"), settings),
                Table("SHA-256", ("of", "hash"), hashes),
                "manifest.json holds those of all files. The same text prepared with the same settings gives the same hashes, with any "
                "number of workers.",
            ),
        )

    def card(self) -> list[Section]:
        """What goes into the card of a model that was trained on it."""
        settings, found = self.facts["settings"], self.corpus.summary
        name = "group" if any(tally.group for tally in self.profile.tallies) else "source"
        duplicates = f"Exact duplicates left out: {found.duplicates:,}."
        near = self.profile.near
        if near is None:
            duplicates += " Near duplicates were not looked for."
        else:
            count = sum(groups.documents for groups in near.groups)
            became = (
                f"left out: {found.rejected.get('near duplicate', 0):,}" if settings["near_duplicates"] == "remove" else "kept on one side"
            )
            duplicates += (
                f" Near duplicates ({settings['near']['shingle']}-word shingles, Jaccard similarity of {settings['near']['threshold']} or "
                f"more) {became}; {counted(count, 'document')} in {counted(sum(groups.groups for groups in near.groups), 'group')}."
            )
        tests = next(part for part in self.contamination().parts if isinstance(part, str))
        if not settings["without"]:
            tests = "Not compared with any evaluation."
        split = (
            f"Held out for validation: {self.corpus.validation.documents:,} documents, {self.corpus.validation.tokens:,} tokens, chosen by "
            f"their contents (seed {settings['seed']}, share {settings['validation']}); trained on: {self.corpus.train.tokens:,} tokens."
        )
        tokenizer = f"Tokenizer: {self.corpus.tokenizer.kind}, {found.vocabulary:,} ids, {found.bytes_per_token:.2f} bytes per token."
        licence = f"Licence of the text: {settings['licence'] or 'unknown; whoever passes this model on has to find out'}."
        tables = {part.caption: part for section in (self.the_sum(), self.sources()) for part in section.parts if isinstance(part, Table)}
        kept = [tables["The sum"], tables[f"By {name}"], *(t for caption, t in tables.items() if caption.startswith("By language"))]
        cleaning = tuple(part for part in self.cleaning().parts if isinstance(part, (str, Table)))
        hashes = next(part for part in self.making().parts if isinstance(part, Table) and part.caption == "SHA-256")
        return [
            Section("Data", (self.title(), *kept, split, tokenizer, duplicates, tests, licence)),
            Section("Data: cleaning", cleaning),
            Section("Data: hashes", (hashes,)),
        ]


def per(tally: Tally, words: int) -> float:
    """Tokens for each word, without those that end documents."""
    return (tally.tokens - tally.documents) / max(1, words)


def named(tally: Tally, name: str) -> str:
    """The group of a tally, or its source without the group's name before it."""
    if name == "group":
        return tally.group or "no group"
    return tally.source.removeprefix(f"{tally.group}=" if tally.group else "") or "given as documents"


def plain_rates(own: Rate) -> tuple[Rate, Rate]:
    """What bytes and characters as tokens come to on the same text."""
    from dataclasses import replace

    return (
        replace(own, name="characters", vocabulary=None, tokens=own.characters),
        replace(own, name="bytes", vocabulary=256, tokens=own.bytes),
    )


def copies(kind: str, found: Copies) -> Iterator[Table | Examples]:
    """Groups by size, the largest, and examples."""
    if not found.groups:
        return
    rows = [
        (f"{g.least:,}" if g.least == g.most else f"{g.least:,} to {g.most:,}", g.groups, g.documents, g.documents - g.groups)
        for g in found.groups
    ]
    yield Table(f"{kind}: groups by size", ("documents of a group", "groups", "documents", "all but the first"), rows)
    if found.groups[-1].most > 2:
        largest = [Example(group.place, (ended(group.text),), f"and {group.documents - 1:,} like it") for group in found.largest]
        yield Examples(f"{kind}: the largest groups, by their first document", largest)
    pairs = []
    for pair in found.examples:
        alike = f", similarity {pair.similarity:.3f}" if pair.similarity is not None else ""
        texts = (pair.text,) if pair.text == pair.original_text else (pair.text, pair.original_text)
        pairs.append(Example(pair.place, tuple(map(ended, texts)), f"repeats {pair.original}{alike}"))
    yield Examples(f"{kind}: examples" + (", each above the first of its group" if "Near" in kind else ""), pairs)


def seen_as(caption: str, found: Sequence[Seen]) -> Examples:
    """Documents with their sizes."""
    return Examples(
        caption,
        [
            Example(
                seen.place, (ended(seen.text),),
                f"{seen.bytes:,} bytes, {seen.tokens:,} tokens: {seen.tokens / max(1, seen.bytes):.3f} per byte"
                + (f", {seen.language}" if seen.language else ""),
            )
            for seen in found
        ],
    )  # fmt: skip


def ended(text: str) -> str:
    """A beginning that ends where the text goes on."""
    from fledge.data.profile import BEGINNING

    return f"{text.rstrip()}…" if len(text) >= BEGINNING - 1 else text


def place(text: str) -> str:
    """A path whose beginning is left out where it is long."""
    return shortened(text, PLACE)


def shortened(text: str, most: int) -> str:
    return text if len(text) <= most else f"…{text[1 - most :]}"


def place_and_reason(rejection: str, reason: str) -> tuple[str, str]:
    """What was rejected, and why."""
    where, _, detail = rejection.partition(f": {reason}")
    return place(where), reason + detail


def spanned(least: int) -> str:
    """The lengths from `least` to just below twice that."""
    return "0" if not least else f"{least:,}" if least == 1 else f"{least:,} to {2 * least - 1:,}"


def flat(settings: dict[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Settings by their dotted names, but those that are off."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from flat(value, f"{before}{name}.")
        elif value is not None and value is not False and value not in ("", []):
            yield before + name, ", ".join(map(str, value)) if isinstance(value, list) else "yes" if value is True else str(value)


def manifest_hash(folder: Path) -> str:
    """The SHA-256 of a corpus's manifest, which holds those of its files."""
    from fledge.data.corpus import MANIFEST

    return hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()


def compared(corpus: Corpus, names: Sequence[str]) -> tuple[Rate, ...]:
    """The corpus's own tokenizer beside others, bytes and characters, on the same sample of its train part.

    The sample is documents at equal distances, as the corpus's tokenizer gives them back.
    """
    from fledge.data.pieces import word_count
    from fledge.text import Tokenizer
    from fledge.verbs.preparation import chosen_tokenizer

    shards, others = corpus.train, list[tuple[str, Tokenizer]]()
    for name in names:
        other = chosen_tokenizer(name, None)
        if not isinstance(other, Tokenizer):
            raise ValueError(f"--compare {name}: bytes and characters stand in the report anyway; name a tokenizer, such as gpt2")
        others.append((name, other))
    sums = dict.fromkeys(("bytes", "characters", "words", "own", *names), 0)
    for number in range(0, shards.documents, max(1, -(-shards.bytes // SAMPLE))):
        tokens, _ = shards.document(number)
        tokens = tokens[: SAMPLE - sums["bytes"]]
        text = corpus.tokenizer.decode(tokens.tolist())
        raw = text.encode()
        for name, count in (("bytes", len(raw)), ("characters", len(text)), ("words", word_count(raw)), ("own", len(tokens))):
            sums[name] += count
        for name, other in others:
            sums[name] += len(other.encode_arrays([text])[0])
        if sums["bytes"] >= SAMPLE:
            break
    rate = partial(Rate, bytes=sums["bytes"], characters=sums["characters"], words=sums["words"])
    own = rate(f"this corpus's ({corpus.tokenizer.kind})", corpus.tokenizer.size, tokens=sums["own"])
    return (
        own,
        *(rate(Path(name).name if Path(name).exists() else name, other.size, tokens=sums[name]) for name, other in others),
        *plain_rates(own),
    )


def describe(corpus: Corpus, compare: Sequence[str] = ()) -> Described:
    """Put `corpus.html` into the folder of a corpus, and `comparison.json` if it is to be compared with other tokenizers."""
    if compare:
        rates = compared(corpus, compare)
        (corpus.folder / COMPARISON).write_text(json.dumps(to_json(rates), indent=1), encoding="utf-8")
    found = Described.of(corpus)
    page_of(found).write(corpus.folder / PAGE)
    return found


def page_of(found: Described) -> Page:
    """The report of a corpus."""
    from fledge.report import Page

    page = Page(f"The corpus {found.name}", found.title())
    draw(page, found.sections())
    return page


def told(found: Described) -> str:
    """The same for a terminal."""
    return f"{found.title()}\n\n{lines_of(found.sections())}"


def data_card(corpus: Corpus, reading: Mapping[str, str] | None = None) -> str:
    """The part of a model's card that tells of the corpus it was trained on, and how it was read."""
    how = Section("How it was read", tuple(f"{name.capitalize()}: {said}." for name, said in (reading or {}).items()))
    return markdown([*Described.of(corpus).card(), *([how] if reading else [])])
