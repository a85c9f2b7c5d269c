"""Any OpenAI-compatible server as a policy (vLLM, SGLang, llama.cpp, ``transformers serve``, hosted services)."""

from __future__ import annotations

from agentgym.endpoint.policy import EndpointPolicy
from agentgym.endpoint.server import Server

__all__ = ["EndpointPolicy", "Server"]
