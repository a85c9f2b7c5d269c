"""``agentgym serve-model``: a trained checkpoint for anybody's client."""

from __future__ import annotations

from typing import Annotated

import typer


def command(
    model: Annotated[str, typer.Argument(help="The folder of a run (its latest checkpoint), or of a model.")],
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for other machines.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    allow_host: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A name that clients may call this server by; repeat it.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="What clients call the model; default: the folder.")] = None,
    device: Annotated[str, typer.Option(help="Where the model runs.")] = "cpu",
    max_concurrent_requests: Annotated[
        int, typer.Option(min=1, help="Requests in work at the same time; more wait.")
    ] = 64,
) -> None:
    """Serve a model by vLLM's protocol, completions and chats, until interrupted (needs the extra 'serve')."""
    from agentgym.endpoint.guard import ServerLimits
    from agentgym.errors import MissingExtra

    try:
        from agentgym.models.loading import load
        from agentgym.models.server import Service, serve_model
    except ModuleNotFoundError as error:
        raise MissingExtra(str(error.name), "train") from error
    weights, tokenizer = load(model, device=device)
    service = Service(weights, tokenizer, name or model.rstrip("/"), max_concurrent_requests=max_concurrent_requests)
    serve_model(service, host, port, ServerLimits(hosts=allow_host or ()))
