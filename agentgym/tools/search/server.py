"""A search server that speaks Search-R1's wire format."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field

from agentgym.endpoint.guard import ServerLimits
from agentgym.endpoint.listen import listen
from agentgym.errors import MissingExtra, ToolError
from agentgym.tools.search.passage import Passage, Retriever, contents

MOST_PASSAGES = 20_000  #: that one request may ask for, over all its queries


class Request(BaseModel):
    """What ``POST /retrieve`` reads."""

    queries: Annotated[list[str], Field(max_length=1024)]
    topk: Annotated[int, Field(ge=1, le=1000)] = 3
    return_scores: bool = False


def search_app(index: Retriever) -> Any:
    """The ASGI application: ``POST /retrieve``, ``GET /document/{document_id}``, ``GET /health``."""
    try:
        from fastapi import FastAPI, HTTPException
    except ImportError as error:
        raise MissingExtra("fastapi", "serve") from error
    app = FastAPI(title="agentgym search", docs_url=None, redoc_url=None)

    # Not async: the server runs them in its threads, so slow queries do not hold up others.
    def retrieve(request: Request) -> dict[str, Any]:
        if (count := len(request.queries) * request.topk) > MOST_PASSAGES:
            message = f"{len(request.queries)} queries x topk {request.topk} are {count} passages"
            raise HTTPException(413, f"{message}; at most {MOST_PASSAGES}")
        rankings = [index.search(query, request.topk) for query in request.queries]
        return {"result": [[_wire(p, request.return_scores) for p in ranking] for ranking in rankings]}

    def document(document_id: str) -> dict[str, Any]:
        try:
            return _wire(index.fetch(document_id), with_score=False)
        except ToolError as error:
            raise HTTPException(404, str(error)) from error

    def health() -> dict[str, str]:
        return {"status": "ok"}

    app.add_api_route("/retrieve", retrieve, methods=["POST"])
    app.add_api_route("/document/{document_id:path}", document, methods=["GET"])
    app.add_api_route("/health", health, methods=["GET"])
    return app


def serve_search(
    index: Retriever, host: str = "127.0.0.1", port: int = 8000, limits: ServerLimits | None = None
) -> None:
    """Serve an index until interrupted; prints the address once it listens. Port 0 takes a free one."""
    listen(search_app(index), "search server", host, port, limits)


def _wire(passage: Passage, with_score: bool) -> dict[str, Any]:
    document = {"id": passage.id, "contents": contents(passage)}
    return {"document": document, "score": passage.score} if with_score else document
