"""The API's JSON without models, for the pages: scripted answers, hostile names, errors on demand."""

import asyncio
import json
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request, Response, UploadFile
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse

from arriero.serve import pages

HOSTILE = '<img src=x onerror="window.hit=1"><script>window.hit=1</script>'
MARKDOWN = f"""# Llamas

A *llama* is **larger** than an alpaca {HOSTILE}.

- carries packs
  - up to `30 kg`
- guards sheep

| animal | weight |
|---|---|
| llama | 130 kg |

```python
print("<b>wool</b>")
```

See [the Andes](https://example.org/andes) and [this](javascript:window.hit=1)."""
PAGE = f"The page begins. 🦙 Llamas carry wool {HOSTILE} over the pass. They rest at noon. The page ends."
PASSAGE = f"Llamas carry wool {HOSTILE} over the pass. They rest at noon."
DOCUMENT = "andes <i>report</i>.pdf"


def make_app(*, token: str | None = None) -> FastAPI:
    """The application; `app.state` shows what was asked of it."""
    app = FastAPI()
    state = app.state
    state.asked, state.token = [], token
    state.collections = {"andes": {DOCUMENT: 4}}
    state.jobs, state.pairs, state.judged = {}, [], []
    state.features = {"preferences": True, "runs": True}
    state.runs = {"tiny <b>run": metrics(40)}
    app.include_router(pages.router)
    _protect(app)
    for add in (_chat, _documents, _preferences, _runs):
        add(app)
    return app


def metrics(steps: int) -> list[dict]:
    """What a run of so many steps writes down."""
    rows: list[dict] = [{"kind": "start", "step": 0}]
    for step in range(1, steps + 1):
        loss = 2 + 8 / step
        rows.append({"kind": "step", "step": step, "loss": loss, "lr": 1e-3, "tokens_per_second": 900.0 + step})
        if step % 10 == 0:
            rows.append({"kind": "validation", "step": step, "loss": loss + 0.1})
    return rows


def error(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": {"message": message, "type": "x", "param": None, "code": None}}, status)


def _protect(app: FastAPI) -> None:
    @app.middleware("http")
    async def check(request: Request, go):
        path = request.url.path
        wanted = app.state.token
        if wanted and path.startswith(("/api", "/v1")) and request.headers.get("authorization") != f"Bearer {wanted}":
            return error(401, "a token is needed")
        return await go(request)


def _chat(app: FastAPI) -> None:
    @app.get("/api/info")
    async def info():
        models = [{"id": name, "kind": "model", "context": 2048} for name in ("llama-small", "llama-large")]
        sampling = {"temperature": 0.9, "max_tokens": 300}
        models.append({"id": "poet", "kind": "adapter", "context": 2048, "sampling": sampling})
        models += [{"id": f"arriero:{name}", "kind": "collection", "context": 2048} for name in app.state.collections]
        features = app.state.features
        return {"version": "0.1.0", "models": models, "default": "llama-small", "limits": {}, "features": features}

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        body = await request.json()
        body.setdefault("model", "llama-small")
        app.state.asked.append(body)
        said = body["messages"][-1]["content"]
        if said == "busy":
            return error(503, "the queue is full: try again in a moment")
        return StreamingResponse(_answer(body, said), media_type="text/event-stream")


async def _answer(body: dict, said: str) -> AsyncIterator[str]:
    text, evidence = f"Answer of {body['model']} to {said}.", None
    if said == "markdown":
        text = MARKDOWN
    if said == "endless":
        text = "again " * 10_000
    if body["model"].startswith("arriero:"):
        text, evidence = _grounded(said)
    pieces = [text[at : at + 24] for at in range(0, len(text), 24)]
    for piece in pieces:
        yield _event({"choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]})
        await asyncio.sleep(0.02 if said == "endless" else 0.001)
    last = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    yield _event(last | ({"arriero": evidence} if evidence else {}))
    yield _event({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": len(pieces)}})
    yield "data: [DONE]\n\n"


def _grounded(said: str) -> tuple[str, dict]:
    citation = {"marker": 1, "number": 1, "document": DOCUMENT, "page": 3, "section": "Trade", "passage_id": 7}
    citation |= {"quote": "They rest at noon."}
    shares = (0.72, 0.19, 0.06, 0.03)
    passages = [
        {
            "passage_id": 7 + at,
            "document": DOCUMENT,
            "page": 3 + at,
            "page_end": 4 + at,
            "section": "Trade",
            "text": PASSAGE,
            "score": share,
        }
        | {"posterior": share}
        for at, share in enumerate(shares)
    ]
    told = {"citations": [citation], "passages": passages, "grounded": "partial", "refused": False}
    text = "Llamas rest at noon [1]. They may like it [9]."
    if said == "refuse":
        told |= {"citations": [], "grounded": "none", "refused": True}
        text = "The documents say nothing of that."
    return text, told | {"collection": "andes"}


def _event(data: dict) -> str:
    return f"data: {json.dumps(data)}\n\n"


def _documents(app: FastAPI) -> None:
    state = app.state

    @app.get("/api/collections")
    async def collections():
        return [
            {"name": name, "documents": len(held), "passages": sum(held.values())}
            for name, held in state.collections.items()
        ]

    @app.post("/api/collections", status_code=201)
    async def create(request: Request):
        name = (await request.json())["name"]
        if name in state.collections:
            return error(409, f"there is a collection '{name}' already")
        state.collections[name] = {}
        return {"name": name, "documents": 0, "passages": 0}

    @app.delete("/api/collections/{name}", status_code=204)
    async def drop(name: str):
        del state.collections[name]

    @app.get("/api/collections/{name}/documents")
    async def documents(name: str):
        one = {"pages": 12, "bytes": 345_678, "added": "2026-11-01T10:00:00Z", "metadata": {}}
        held = sorted(state.collections[name].items())
        return [{"name": document, "passages": passages} | one for document, passages in held]

    @app.post("/api/collections/{name}/documents", status_code=202)
    async def add(name: str, files: list[UploadFile]):
        job = str(len(state.jobs))
        state.jobs[job] = [name, 0, [file.filename for file in files]]
        return {"job": job}

    @app.get("/api/jobs/{job}")
    async def watch(job: str):
        name, asked, files = state.jobs[job]
        state.jobs[job][1] += 1
        if asked < 1:
            waiting = [{"name": file, "state": "waiting", "error": None} for file in files]
            return {"state": "running", "done": 0, "total": len(files), "files": waiting}
        bad = [file for file in files if file.endswith(".bad")]
        state.collections[name] |= {file: 3 for file in files if file not in bad}
        told = [
            {"name": f, "state": "failed" if f in bad else "added", "error": "no known format" if f in bad else None}
            for f in files
        ]
        return {"state": "done", "done": len(files), "total": len(files), "files": told}

    @app.delete("/api/collections/{name}/documents/{document:path}", status_code=204)
    async def remove(name: str, document: str):
        del state.collections[name][document]

    @app.get("/api/collections/{name}/passages/{number}")
    async def passage(name: str, number: int):
        start = PAGE.index("Llamas")
        place = {"document": DOCUMENT, "page": 3, "section": "Trade", "text": PASSAGE, "page_text": PAGE}
        return place | {"start": start, "end": start + len(PASSAGE)}


def _preferences(app: FastAPI) -> None:
    state = app.state
    state.pairs = [_pair(number, f"prompt {number}", [f"good {HOSTILE}", "bad"]) for number in (1, 2)]

    @app.get("/api/preferences/next")
    async def following(annotator: str):
        done = {judged["pair"] for judged in state.judged if judged["annotator"] == annotator}
        left = [pair for pair in state.pairs if pair["id"] not in done]
        return {"pair": left[0] if left else None, "progress": {"judged": len(done), "total": len(state.pairs)}}

    @app.post("/api/preferences/pairs", status_code=201)
    async def add(request: Request):
        body = await request.json()
        texts = [one["text"] for one in body.get("responses") or [{"text": "made one"}, {"text": "made two"}]]
        state.pairs.append(_pair(len(state.pairs) + 1, body["messages"][-1]["content"], texts))
        return state.pairs[-1]

    @app.post("/api/preferences/judgements", status_code=201)
    async def judge(request: Request):
        state.judged.append(await request.json())
        return {}

    @app.get("/api/preferences/stats")
    async def stats():
        names = {judged["annotator"] for judged in state.judged}
        counts = {name: sum(judged["annotator"] == name for judged in state.judged) for name in names}
        told = {"pairs": len(state.pairs), "judgements": len(state.judged), "annotators": counts, "agreement": 0.63}
        return told | {"tally": []}


def _pair(number: int, prompt: str, texts: list[str]) -> dict:
    messages = [{"role": "user", "content": prompt}]
    return {"id": number, "kind": "helpfulness", "messages": messages, "responses": texts, "order": [2, 1]}


def _runs(app: FastAPI) -> None:
    @app.get("/api/runs")
    async def runs():
        return [
            {"name": name, "kind": "pretrain", "step": rows[-1]["step"], "steps": 60, "loss": 2.2}
            | {"updated": "2026-11-20T10:00:00Z", "finished": False, "state": "in progress"}
            for name, rows in app.state.runs.items()
        ]

    @app.get("/api/runs/{name}/metrics")
    async def rows(name: str, after: int = 0):
        held = app.state.runs[name]
        return {"rows": held[after:], "next": len(held), "restarted": False}

    @app.get("/api/runs/{name}/report")
    async def report(name: str):
        style = "<style>h1 { color: rgb(1, 2, 3) }</style>"
        return HTMLResponse(f"{style}<h1>Report</h1><script>document.title = 'ran'</script>")
