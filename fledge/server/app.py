"""The routes: OpenAI's, and our own for classifiers, the page, and whoever watches the server."""

import base64
import hashlib
import mimetypes
import struct
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from fledge.arch.record import did_you_mean
from fledge.server import asked
from fledge.server.answers import CHAT, COMPLETION, Answers, Count, Form
from fledge.server.gate import Gate
from fledge.server.limits import Access, Limits
from fledge.server.link import READY, Job, Link
from fledge.server.metrics import Metrics
from fledge.server.refusal import Refusal

COMPLETION_TOKENS = 16  # OpenAI's default; a conversation's answer goes on to its end
PATHS = ("/", "/health", "/metrics", "/v1/models", "/v1/completions", "/v1/chat/completions", "/v1/embeddings", "/v1/classify")
BODIES = {
    "/v1/chat/completions": asked.Chat,
    "/v1/completions": asked.Completion,
    "/v1/embeddings": asked.Embedding,
    "/v1/classify": asked.Classify,
}


def application(link: Link, access: Access, limits: Limits) -> Gate:
    """What answers requests, behind its gate."""
    app, metrics, began = FastAPI(title="fledge", docs_url=None, redoc_url=None), Metrics(), int(time.time())

    @app.get("/v1/models")
    async def models() -> JSONResponse:
        link.check()
        rows = [_model(name, {key: about[key] for key in ("kind", "settings")}, began) for name, about in link.models.items()]
        return JSONResponse({"object": "list", "data": rows})

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> JSONResponse:
        return JSONResponse(_model(name, _known(link, name), began))

    @app.post("/v1/chat/completions")
    async def chat(body: asked.Chat, request: Request) -> Response:
        if len(body.messages) > limits.messages:
            raise Refusal(
                400, f"{len(body.messages):,} messages, but this server takes {limits.messages:,}: send the last ones", param="messages"
            )
        if body.tool_choice not in (None, "auto", "none"):
            raise Refusal(
                400, "tool_choice may be auto or none: tools are passed on as text, and what calls them is text", param="tool_choice"
            )
        if body.top_logprobs and not body.logprobs:
            raise Refusal(400, "top_logprobs needs logprobs: true beside it", param="top_logprobs")
        messages = body.conversation()
        tools = [tool.function for tool in body.tools or () if body.tool_choice != "none"]
        return await written(
            request, body, CHAT, 1, messages=messages, tools=tools, most=body.max_completion_tokens or body.max_tokens,
            marks=bool(body.logprobs), top=body.top_logprobs or 0,
        )  # fmt: skip

    @app.post("/v1/completions")
    async def complete(body: asked.Completion, request: Request) -> Response:
        prompts = body.prompts()
        if len(prompts) > limits.messages:
            raise Refusal(400, f"{len(prompts):,} prompts, but this server takes {limits.messages:,}: send them in turn", param="prompt")
        if body.best_of not in (None, 1, body.n or 1):
            raise Refusal(400, "best_of is what n is, or left out: every answer is given", param="best_of")
        if not all(prompts) and any(isinstance(prompt, list) for prompt in prompts):
            raise Refusal(400, "a prompt of tokens holds none: give one at least", param="prompt")
        most = body.max_tokens
        return await written(
            request, body, COMPLETION, len(prompts), prompts=prompts, most=most, marks=body.logprobs is not None,
            top=body.logprobs or 0, echo=bool(body.echo),
        )  # fmt: skip

    async def written(
        request: Request, body: asked.Sampled, form: Form, prompted: int, most: int | None, marks: bool, top: int,
        echo: bool = False, **question: Any,
    ) -> Response:  # fmt: skip
        """Ask for answers, and give them whole or as they are made."""
        own, n = _known(link, body.model)["settings"], body.n or 1
        if n > limits.choices:
            raise Refusal(400, f"n is {n}, but this server gives {limits.choices} answers to a prompt at most", param="n")
        if most is not None and most > limits.tokens:
            raise Refusal(400, f"max_tokens is {most:,}, but answers have {limits.tokens:,} here at most", param="max_tokens")
        if most == 0 and not echo:
            raise Refusal(400, "max_tokens is 0, but an answer has 1 at least, unless the prompt is repeated by echo", param="max_tokens")
        default = own.get("max_tokens", limits.tokens if form is CHAT else COMPLETION_TOKENS)
        settings = body.settings() | {"max_tokens": min(limits.tokens, default) if most is None else most or 1}
        contract = None if body.response_format is None else body.response_format.contract()
        job = ask(
            request, body.model, prompted * n, do="write", n=n, settings=settings, contract=contract, marks=marks, top=top, echo=echo,
            stream=bool(body.stream), write=most != 0, **{"messages": None, "prompts": None, **question},
        )  # fmt: skip
        answers = Answers(job, form, prompted * n, n, marks, Count())
        await answers.begun()
        if not body.stream:
            told = await answers.whole()
            counted(body.model, answers.count)
            return JSONResponse(told)
        usage = body.stream_options is not None and body.stream_options.include_usage
        return StreamingResponse(streamed(answers, usage), media_type="text/event-stream")

    async def streamed(answers: Answers, usage: bool) -> AsyncIterator[bytes]:
        model = answers.job.model

        def watch(seconds: float, further: bool) -> None:
            metrics.time("fledge_between_tokens_seconds" if further else "fledge_first_token_seconds", seconds, model=model)

        try:
            async for piece in answers.pieces(usage, watch):
                yield piece
        finally:
            counted(model, answers.count)

    @app.post("/v1/embeddings")
    async def embed(body: asked.Embedding, request: Request) -> JSONResponse:
        _known(link, body.model)
        texts = _texts(body.input, limits.texts)
        job, vectors, count = ask(request, body.model, 1, do="embed", texts=texts), list[list[float]](), Count()
        async for told in job:
            vectors += told["vectors"]
            count.read += told["prompt_tokens"]
        counted(body.model, count)
        if body.dimensions not in (None, len(vectors[0])):
            raise Refusal(400, f"dimensions is {body.dimensions}, but vectors of this model have {len(vectors[0])}", param="dimensions")
        packed = body.encoding_format == "base64"
        rows = [{"object": "embedding", "index": i, "embedding": _packed(row) if packed else row} for i, row in enumerate(vectors)]
        usage = {"prompt_tokens": count.read, "total_tokens": count.read}
        return JSONResponse({"object": "list", "data": rows, "model": body.model, "usage": usage})

    @app.post("/v1/classify")
    async def classify(body: asked.Classify, request: Request) -> JSONResponse:
        _known(link, body.model)
        texts = _texts(body.input, limits.explained if body.explain else limits.texts)
        job, said, words, count = ask(request, body.model, 1, do="classify", texts=texts, explain=body.explain), [], [], Count()
        async for told in job:
            said += told.get("said", [])
            words += [{"words": told["words"]}] if "words" in told else []
            count.read += told.get("prompt_tokens", 0)
        counted(body.model, count)
        rows = [{"index": i, **row, **(words[i] if words else {})} for i, row in enumerate(said)]
        usage = {"prompt_tokens": count.read, "total_tokens": count.read}
        return JSONResponse({"object": "list", "model": body.model, "data": rows, "usage": usage})

    @app.get("/health")
    async def health() -> JSONResponse:
        return JSONResponse({"status": link.state}, 200 if link.state == READY else 503)

    @app.get("/metrics")
    async def numbers() -> PlainTextResponse:
        return PlainTextResponse(metrics.text(link.rows, link.state == READY), media_type="text/plain; version=0.0.4; charset=utf-8")

    pages = dict(_pages())

    @app.get("/page/{name}")
    async def page(name: str, request: Request) -> Response:
        if name not in pages:
            raise HTTPException(404)
        content, kind, tag = pages[name]
        headers = {"ETag": tag, "Cache-Control": "no-cache"}  # kept, and asked for anew each time
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=kind, headers=headers)

    @app.get("/")
    async def index(request: Request) -> Response:
        return await page("index.html", request)

    def ask(request: Request, model: str, rows: int, **question: Any) -> Job:
        """A question whose job ends with its request."""
        job = link.ask(model, rows, **question)
        request.scope["state"]["jobs"].append(job)
        return job

    def counted(model: str, count: Count) -> None:
        metrics.count("fledge_prompt_tokens_total", count.read, model=model)
        metrics.count("fledge_answer_tokens_total", count.written, model=model)

    @app.exception_handler(Refusal)
    async def refused(request: Request, refusal: Refusal) -> JSONResponse:
        return JSONResponse(refusal.to_json(), refusal.status, refusal.headers)

    @app.exception_handler(Exception)
    async def failed(request: Request, fault: Exception) -> JSONResponse:  # which the gate logs
        return await refused(request, Refusal(500, "a fault of the server: its log tells where"))

    @app.exception_handler(RecursionError)
    async def nested(request: Request, fault: RecursionError) -> JSONResponse:
        return await refused(request, Refusal(400, "the request is nested too deeply: send it flatter"))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, wrong: RequestValidationError) -> JSONResponse:
        body = BODIES.get(request.url.path)
        return await refused(request, asked.sentence(dict(wrong.errors()[0]), [] if body is None else list(body.model_fields)))

    @app.exception_handler(HTTPException)
    async def impossible(request: Request, error: HTTPException) -> JSONResponse:
        said = {
            404: f"there is nothing at this address{did_you_mean(request.url.path[:100], PATHS)}",
            405: f"{request.method} is not for this route, which takes {(error.headers or {}).get('Allow', 'another method')}",
            400: "the body is no JSON that could be read",
        }
        refusal = Refusal(error.status_code, said.get(error.status_code, str(error.detail)))
        return JSONResponse(refusal.to_json(), refusal.status, dict(error.headers or {}))

    return Gate(app, access, limits, metrics)


def _known(link: Link, name: str) -> dict[str, Any]:
    """What is told of a model. Raises `Refusal` with the nearest name for one that is not served."""
    link.check()
    if name not in link.models:
        near = did_you_mean(name[:100], link.models)
        raise Refusal(404, f"no model of this name is served here{near}: /v1/models tells which are", "model_not_found", "model")
    return link.models[name]


def _model(name: str, about: dict[str, Any], began: int) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": began, "owned_by": "fledge", "fledge": about}


def _texts(given: str | Sequence[Any], most: int) -> list[Any]:
    texts = [given] if isinstance(given, str) else list(given)
    if len(texts) > most:
        raise Refusal(400, f"{len(texts):,} texts, but this server takes {most:,} at once: send them in turn", param="input")
    for number, text in enumerate(texts, 1):
        if not all(part.strip() for part in ([text] if isinstance(text, str) else text)):
            raise Refusal(400, f"text {number} is empty", param="input")
    return texts


def _packed(row: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(row)}f", *row)).decode()


def _pages() -> Iterator[tuple[str, tuple[bytes, str, str]]]:
    """Each file of the page by its name: its bytes, its type and a tag that changes with it."""
    for file in files("fledge.server").joinpath("page").iterdir():
        if file.is_file():
            content = file.read_bytes()
            kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
            kind += "; charset=utf-8" if kind.startswith("text/") else ""
            yield file.name, (content, kind, f'"{hashlib.sha256(content).hexdigest()[:20]}"')
