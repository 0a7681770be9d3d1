"""A real Chromium on the page of a server, with an eye on what it runs and what it fetches."""

import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, Dialog, Page, Request, Route, sync_playwright

FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
PATIENCE = 60_000  # milliseconds
PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
RAN = "window.ran = () => { window.runs = (window.runs ?? 0) + 1; }; window.alert = window.prompt = window.confirm = window.ran;"
ALLOWED = ("http:", "https:", "mailto:")
STRANGERS = """(allowed) => {
    const foreign = ["script", "iframe", "object", "embed", "img", "video", "audio", "link", "meta", "base", "style", "math"];
    const acts = ({name, ownerElement: at}) => /^on|^srcdoc$/.test(name) || (name === "style" && at.localName !== "textarea");
    const leads = (one) => one.matches("a:not(.skip, [download])") && !allowed.includes(new URL(one.href).protocol);
    const ours = (one) => [location.origin, "data:"].some((place) => (one.src ?? one.href).startsWith(place));
    const bad = (one) => foreign.includes(one.localName) || [...one.attributes].some(acts) || leads(one);
    const body = [...document.querySelectorAll("body *")].filter(bad);
    const head = [...document.head.querySelectorAll("script, link")].filter((one) => !ours(one));
    return [...body, ...head].map((one) => one.outerHTML.slice(0, 200));
}"""


def chromium() -> str | None:
    """Where a Chromium is, if this machine has one: what `FLEDGE_CHROMIUM` names, or the first that is found."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return os.environ.get("FLEDGE_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


@contextmanager
def browsing() -> Iterator[Browser]:
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium(), args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


class Eye:
    """What a page tries: `outside` are requests to other places, which are cut off, `faults` its errors and what its policy refused."""

    def __init__(self, page: Page, url: str):
        self.page, self.url, self.outside, self.faults = page, url, list[str](), list[str]()
        page.set_default_timeout(PATIENCE)
        page.add_init_script(RAN)
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("console", lambda line: self.faults.append(line.text) if line.type == "error" else None)
        page.on("dialog", self._dismiss)
        page.on("request", self._look)
        page.context.route(lambda address: not self._inside(address), lambda route: route.abort())

    def _dismiss(self, dialog: Dialog) -> None:
        self.faults.append(f"a dialog: {dialog.message}")
        dialog.dismiss()

    def _inside(self, address: str) -> bool:
        return address.startswith((f"{self.url}/", "data:", "blob:"))

    def _look(self, request: Request) -> None:
        if not self._inside(request.url):
            self.outside.append(request.url)

    def runs(self) -> int:
        """How often a text had itself run."""
        return self.page.evaluate("window.runs ?? 0")

    def strangers(self) -> list[str]:
        """Elements and attributes that only markup from a text could have brought."""
        return self.page.evaluate(STRANGERS, list(ALLOWED))


def events(parts: Sequence[dict[str, Any]]) -> str:
    """A streamed answer."""
    return "".join(f"data: {json.dumps(part)}\n\n" for part in parts) + "data: [DONE]\n\n"


def answered(page: Page, path: str, body: str | dict[str, Any]) -> None:
    """From now on the page hears this from one of the server's routes."""
    kind = "text/event-stream" if isinstance(body, str) else "application/json"
    text = body if isinstance(body, str) else json.dumps(body)

    def answer(route: Route) -> None:
        route.fulfill(status=200, content_type=kind, body=text)

    page.unroute(f"**{path}")
    page.route(f"**{path}", answer)


def token(name: str, share: float, others: Mapping[str, float]) -> dict[str, Any]:
    """A piece of a streamed completion: one token, its probability, and those of others."""
    top = {other: math.log(value) for other, value in {name: share, **others}.items()}
    marks = {"tokens": [name], "token_logprobs": [math.log(share)], "top_logprobs": [top], "text_offset": [0]}
    return {"choices": [{"text": name, "logprobs": marks, "finish_reason": None}]}


def delta(text: str) -> dict[str, Any]:
    """A piece of a streamed answer in a conversation."""
    return {"choices": [{"delta": {"content": text}, "finish_reason": None}]}


class Room:
    """A page in which texts are tried: what a person writes, what a model answers, what a folder tells of itself."""

    PLACES = ("chat", "complete", "classify", "card")

    def __init__(self, browser: Browser, url: str, key: str):
        self.page = browser.new_context().new_page()
        self.eye = Eye(self.page, url)
        self.page.add_init_script(f"sessionStorage.setItem('fledge.key', {json.dumps(key)})")
        self.page.goto(url)

    def complaint(self, place: str, text: str) -> str | None:
        """What a text brought about where it should only be seen, or None."""
        shown = getattr(self, f"_{place}")(text)
        self.page.wait_for_timeout(20)  # what was made may still load something
        if runs := self.eye.runs():
            return f"in {place} it ran {runs} times"
        for what, found in (("asked for", self.eye.outside), ("was refused", self.eye.faults), ("became markup", self.eye.strangers())):
            if found:
                return f"in {place} it {what}: {found[0]}"
        return None if text in shown else f"in {place} it was not shown as it is, but as {shown!r:.300}"

    def _chat(self, text: str) -> str:
        """Both sides of a conversation say it; the answer comes in pieces, and the browser keeps it."""
        page = self.page
        page.locator("#tab-chat").click()
        page.locator("#talks-box").evaluate("(box) => box.open = true")
        page.locator("#talk-new").click()
        answered(page, "/v1/chat/completions", events([delta(text[start : start + 7]) for start in range(0, len(text), 7)]))
        page.locator("#say").fill(text)
        page.locator("#send").click()
        page.locator(".answer >> text=Regenerate").wait_for()
        shown = page.locator(".user .body").inner_text()
        page.locator("#talks").get_by_title("Delete").first.click()
        return shown

    def _complete(self, text: str) -> str:
        """It is the prompt, a token, and what else could have stood there."""
        page = self.page
        page.locator("#tab-complete").click()
        answered(page, "/v1/completions", events([token(text, 0.4, {f"{text}!": 0.3}), token(" end", 0.9, {})]))
        page.locator("#prompt").fill(text)
        page.locator("#complete-go").click()
        page.locator(".token").nth(1).wait_for()
        page.locator("#complete-go").wait_for()
        page.locator(".token").first.click()
        page.locator(".others button").nth(1).wait_for()
        return (page.locator(".given").first.text_content() or "") + (page.locator(".others").text_content() or "")

    def _classify(self, text: str) -> str:
        """It is judged, it is a label, and its words decided."""
        page = self.page
        page.locator("#tab-classify").click()
        words = [{"text": text[:9], "weight": 1.0}, {"text": text[9:], "weight": -2.0}]
        answered(page, "/v1/classify", {"data": [{"label": text, "scores": {text: 0.9, f"not {text}": 0.1}, "words": words}]})
        page.locator("#judgement").evaluate("(place) => place.replaceChildren()")
        page.locator("#text").fill(text)
        page.locator("#classify-go").click()
        page.locator("#judgement .legend").wait_for()
        return page.locator("#judgement div.tokens").text_content() or ""

    def _card(self, text: str) -> str:
        """A model's folder says it, in its card and its facts; the page is opened anew."""
        page = self.page
        told = {"kind": "assistant", "card": text, "curves": [], "settings": {}}
        told["facts"] = {"tokenizer": text, "labels": [text], "scores": {text: {text: 1.0}}, "trained_to": {"task": text, "example": text}}
        answered(page, "/v1/models/assistant", {"id": "assistant", "fledge": told})
        page.evaluate("history.replaceState(null, '', '#about')")
        page.reload()
        page.locator("#about dl").first.wait_for()
        shown = page.locator("#about dd").first.text_content() or ""
        page.locator("#tab-chat").click()
        page.locator(".example").wait_for()
        return shown
