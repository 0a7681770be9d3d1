import math
import os
import re
import shutil
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fledge.evaluation.statistics import Interval
from fledge.report import Example, Line, Page, Sample, Weighed
from fledge.report.style import STYLE

VOID = {"meta", "wbr"}
EVIL = "</style></title><script>alert('1')</script>\"'& \x00\x1b\ud800\u202e <img src=https://evil.example/x onerror=y>"


class Strict(HTMLParser):
    """Every tag that opens closes in order; collects what there is."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.attributes, self.texts, self.headings = [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag in ("h1", "h2", "h3"):
            self.headings.append(int(tag[1]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def parsed(page):
    parser = Strict()
    parser.feed(page.html())
    parser.close()
    assert not parser.open
    return parser


def page_of(text):
    """Everything that a page can hold, each string of it `text`."""
    page = Page(text, text)
    for _ in range(3):
        page.heading(text)
    page.heading(text, 3)
    page.paragraph(text)
    page.facts([(text, text), (text, 1), (text, None), (text, 0.5)])
    page.table(text, [text, "x", "y"], [[text, 1, Interval(1.0, 0.0, 2.0)], [text, 2, None]], best=("x", min))
    page.table(text, [text, "x", "y", text], [[text, 1, text, 2]])
    page.lines(text, [Line(text, [1, 2, 3], [1, math.nan, 2]), Line(text, [], [])], text, text, log_x=True)
    page.bars(text, [(text, 1.0), ("b", 0.0)], text, chosen=text)
    page.intervals(text, [(text, Interval(1.0, 0.0, 2.0))], text)
    page.confusion(text, [text, "b"], [[1, 2], [0, 0]])
    page.timeline(text, [Sample(text, text, text, text)])
    page.examples(text, [Example(text, (text, text), text)])
    page.tokens(text, [(text, True), (text, False)])
    page.words(text, [Weighed(text, ((text, 1.0), (text, -0.5), (text, 0.0)), text)], (text, text))
    page.attention(text, [text, "b"], [text, "b"], [[[1.0, 0.0], [0.3, 0.7]]])
    page.code(text)
    return page


@settings(max_examples=40, deadline=None)
@given(st.one_of(st.just(EVIL), st.text(min_size=1, max_size=40)))
def test_whatever_the_text_it_stays_text(text):
    parser, plain = parsed(page_of(text)), parsed(page_of("plain"))
    extra = text.count(" ") + text.count("\t") + text.count("\n")  # the marks of spaces in two tokens
    assert [tag for tag in parser.tags if tag not in ("i", "wbr")] == [tag for tag in plain.tags if tag != "i"]
    assert parser.tags.count("i") == 2 * extra
    assert {name for name, _ in parser.attributes} == {name for name, _ in plain.attributes}


def test_names_of_rows_break_between_their_parts():
    page = Page("rows")
    page.heading("rows")
    page.table("rows", ["name", "count"], [["notes/a_long.name&<", 1], ["0.5 of 3/4", 2]])
    assert '<th scope="row">notes/<wbr>a_<wbr>long.<wbr>name&amp;&lt;</th>' in page.html()
    assert '<th scope="row">0.5 of 3/4</th>' in page.html()


@pytest.mark.slow  # a browser
def test_no_table_is_wider_than_a_phone(tmp_path):
    browsers = pytest.importorskip("playwright.sync_api")
    if (chromium := shutil.which("chromium")) is None:
        pytest.skip("chromium is not here")
    page = Page("corpus")
    page.heading("Where it comes from")
    names = ["source", "came in", "kept", "left out", "bytes in", "bytes kept", "tokens"]
    page.table("By source", names, [["/data/text/a-rather-long-name.jsonl.gz", 3565, 3565, 0, 64089744, 64089745, 22302351]] * 2)
    page.table("The split", ["", "documents", "bytes", "tokens"], [["to train on", 4400, 79000000, 26000000]])
    page.write(tmp_path / "page.html")
    with browsers.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium)
        for width, stacked in ((390, True), (1000, False)):
            view = browser.new_page(viewport={"width": width, "height": 900})
            view.goto(f"file://{tmp_path}/page.html")
            assert view.evaluate("[...document.querySelectorAll('.wide')].every(part => part.scrollWidth <= part.clientWidth)")
            assert view.evaluate("getComputedStyle(document.querySelector('.many td'), '::before').content") == (
                '"came in"' if stacked else "none"
            )
        browser.close()


def test_nothing_is_run_or_fetched():
    page = page_of(EVIL)
    parser, html = parsed(page), page.html()
    assert not {"script", "link", "img", "iframe", "object", "form"} & set(parser.tags)
    assert not [value for name, value in parser.attributes if name.startswith("on") or name in ("src", "srcset", "action")]
    assert all(value.startswith("#") for name, value in parser.attributes if name == "href")
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in html
    assert "url(" not in html
    assert "@import" not in html
    assert "\x00" not in html
    assert "\u202e" not in html
    html.encode()


def test_it_can_be_read_without_seeing_it():
    parser = parsed(page_of("text"))
    assert parser.headings[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(parser.headings))
    html = page_of("text").html()
    assert all(
        re.match(r"<svg[^>]*(aria-hidden|><title>[^<]+</title><desc>[^<]+</desc>)", svg)
        for svg in re.findall(r"<svg.*?</desc>|<svg[^>]*>", html)
    )
    assert all("scope=" in cell for cell in re.findall(r"<th\b[^>]*>", html))


def contrast(one, other):
    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        return sum(
            w * (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4) for w, c in zip((0.2126, 0.7152, 0.0722), parts, strict=True)
        )

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", [0, 1])
def test_text_and_curves_stand_out_in_light_and_dark(theme):
    """WCAG 2.2: 4.5 for text, 3 for graphics."""
    block = re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)[theme]
    colour = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))
    for ground in ("ground", "card", "wash"):
        for ink in ("ink", "soft", "accent"):
            assert contrast(colour[ink], colour[ground]) >= 4.5, (ink, ground)
    assert contrast(colour["ink"], colour["accent-wash"]) >= 4.5
    assert contrast(colour["accent"], colour["accent-wash"]) >= 4.5
    assert all(contrast(colour[f"c{i}"], colour["ground"]) >= 3 for i in range(6))


def test_tables_align_numbers_and_mark_the_best():
    page = Page("t")
    page.table(
        "c", ["method", "bits", "note"], [["a", Interval(2.0, 1.5, 2.5), "x"], ["b", 1.25, None], ["c", None, "z"]], best=("bits", min)
    )
    html = page.html()
    assert '<th scope="col" class="number">bits</th>' in html
    assert '<th scope="col">note</th>' in html
    assert '<tr class="best"><th scope="row">b<span class="badge">best</span></th><td class="number">1.250</td>' in html
    assert "2.000<small>1.500\N{EN DASH}2.500</small>" in html
    with pytest.raises(ValueError, match="a row of 1 cells, but the table has 2 columns: a, b"):
        page.table("c", ["a", "b"], [["x"]])


def test_headings_keep_their_order():
    page = Page("t")
    with pytest.raises(ValueError, match="heading of level 3"):
        page.heading("part", 3)
    for name in ("one", "two", "three"):
        page.heading(name)
    assert '<li><a href="#s2">two</a></li>' in page.html()
    assert '<h2 id="s2">two</h2>' in page.html()


def test_tokens_show_what_is_trained_on():
    page = Page("t")
    page.tokens("strip", [("user", False), ("\n", False), (" yes", True)])
    html = page.html()
    assert '<span class="trained"><i>·</i>yes</span>' in html
    assert '<span class="read"><i>↵</i>\n</span>' in html
    assert "trained on</span> 1<" in html
    assert "read only</span> 2<" in html


def test_a_failed_write_leaves_the_old_page(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    Page("old").write(path)
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        Page("new").write(path)
    assert "<h1>old</h1>" in path.read_text()
    assert [p.name for p in Path(tmp_path).iterdir()] == ["report.html"]
