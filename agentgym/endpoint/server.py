"""One HTTP server: pooled connections, repeated requests, errors in one line."""

from __future__ import annotations

import json
import math
import os
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import httpx

from agentgym import keyed_random
from agentgym.errors import PolicyError, UsageError
from agentgym.http import Answer, AnswerTooLarge, HttpClient, NoAnswer

_T = TypeVar("_T")
_TRY_AGAIN = {408, 409, 425, 429, 500, 502, 503, 504, 529}
_TOO_LONG = ("context_length_exceeded", "maximum context length", "context window", "context length")
_LONGEST_WAIT = 60.0  # seconds
_SHOWN = 300  # characters of a server's own words in an error


class UnreadableAnswer(ValueError):
    """An answer that is not what the protocol says; asked again."""


class ContextFull(Exception):
    """The server says that the request is longer than its model's window."""


class Server:
    """Asks a server until it answers.

    A request that fails for a reason that may pass (no connection, timeout, 429, 5xx, an unreadable answer or one
    without end) is repeated after ``backoff * 2**n`` seconds, at most a minute, with up to half of it randomly taken
    off so that many clients do not come back together; or after the time that the server asks for (``Retry-After``).

    Args:
        url: base address.
        key_variable: environment variable with the API key; the key is sent to the server and never shown.
        connections: open at the same time.
        timeout: seconds for one answer, to its last byte.
        retries: how often a request is repeated.
        backoff: see above, seconds.

    Attributes:
        reached: whether it ever answered, be it with an error.

    Raises:
        UsageError: not an address, one with a password in it (addresses are shown), or a key that cannot be sent.
    """

    def __init__(
        self,
        url: str,
        *,
        key_variable: str = "OPENAI_API_KEY",
        connections: int = 64,
        timeout: float = 120.0,
        retries: int = 5,
        backoff: float = 0.5,
    ) -> None:
        try:
            address = httpx.URL(url.rstrip("/"))
        except httpx.InvalidURL as error:
            raise UsageError(f"{url!r} is no address: {error}") from error
        if address.scheme not in ("http", "https") or not address.host:
            raise UsageError(f"a server's address looks like http://localhost:8000/v1, got {url!r}")
        if address.userinfo:
            raise UsageError(f"the address of {address.host} holds a password; put it into {key_variable} instead")
        self.url = str(address)
        self.reached = False
        self._retries, self._backoff = retries, backoff
        self._closed = threading.Event()
        self._key = os.environ.get(key_variable, "").strip()
        if not self._key.isascii() or not self._key.isprintable():
            raise UsageError(f"the API key in {key_variable} holds characters that cannot be sent; set it again")
        self._timeout = timeout
        self._client = HttpClient(
            headers={"Content-Type": "application/json"}
            | ({"Authorization": f"Bearer {self._key}"} if self._key else {}),
            connections=connections,
        )

    def close(self) -> None:
        """Stop repeating requests and close the connections."""
        self._closed.set()
        self._client.close()

    def get(self, path: str, read: Callable[[Any], _T], *, retries: int | None = None) -> _T:
        """Ask without a body; see :meth:`post`."""
        return self._ask("GET", path, None, read, keyed_random.key(path), self._retries if retries is None else retries)

    def post(self, path: str, body: object, read: Callable[[Any], _T], *, key: int) -> _T:
        """Send a JSON body, read the JSON answer.

        Args:
            path: after the base address, or a whole address.
            body: JSON values; lone surrogates in it are replaced.
            read: decoded answer -> result; raises UnreadableAnswer where it is not what it should be.
            key: of the waiting times' random part.

        Raises:
            PolicyError: refused, or failed too often; says what the server said.
            ContextFull: the request was too long for the model.
        """
        content = json.dumps(body, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")
        return self._ask("POST", path, content, read, key, self._retries)

    def _ask(
        self, method: str, path: str, content: bytes | None, read: Callable[[Any], _T], key: int, retries: int
    ) -> _T:
        address = path if path.startswith("http") else self.url + path
        problem, tries = "", 0
        while tries <= retries and not self._closed.is_set():
            wait = min(_LONGEST_WAIT, self._backoff * 2**tries) * (1 - keyed_random.uniform(key, "back-off", tries) / 2)
            tries += 1
            try:
                answer = self._client.request(method, address, content, seconds=self._timeout)
                self.reached = True
                if 200 <= answer.status < 300:
                    return read(decoded(answer.body))
                problem = f"answered {answer.status}: {self._words(answer)}"
                if answer.status not in _TRY_AGAIN:
                    break
                wait = _asked_to_wait(answer, wait)
            except UnreadableAnswer as error:
                problem = f"sent an answer that cannot be read: {error}"
            except TimeoutError:
                problem = f"did not answer within {self._timeout:g} s"
            except AnswerTooLarge as error:
                problem = f"sent an answer without end: {error}"
            except NoAnswer as error:
                problem = f"cannot be reached ({self._shortened(str(error))})"
            if tries <= retries:
                self._closed.wait(wait)
        raise PolicyError(f"{self.url} {problem or 'was closed'}" + (f" ({tries} tries)" if tries > 1 else ""))

    def _words(self, answer: Answer) -> str:
        """What the server says went wrong.

        Raises:
            ContextFull: it says that the request was too long.
        """
        whole = answer.body.decode("utf-8", "replace")
        try:
            told: Any = json.loads(answer.body)
        except (ValueError, RecursionError):
            told = whole
        for name in ("error", "message", "detail"):
            if isinstance(told, dict) and told.get(name):
                told = told[name]
        text = told if isinstance(told, str) else json.dumps(told)
        if answer.status in (400, 413, 422) and any(sign in whole.lower() for sign in _TOO_LONG):
            raise ContextFull(self._shortened(text))
        return self._shortened(text) or httpx.codes.get_reason_phrase(answer.status)

    def _shortened(self, text: str) -> str:
        """In one line, not too long, without the key."""
        line = " ".join(text.split())
        if self._key:
            line = line.replace(self._key, "***")
        return line if len(line) <= _SHOWN else line[:_SHOWN] + "..."


def decoded(body: bytes) -> Any:
    """JSON as the standard has it: no NaN, no infinity, no number that only looks finite.

    Raises:
        UnreadableAnswer: it is something else.
    """
    try:
        return json.loads(body, parse_constant=_number, parse_float=_number)
    except (ValueError, RecursionError) as error:  # not JSON, or not UTF-8
        raise UnreadableAnswer(f"not JSON, it begins with {body[:40]!r}") from error


def _number(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text} is out of range")
    return number


def _asked_to_wait(answer: Answer, otherwise: float) -> float:
    try:
        seconds = float(answer.headers.get("retry-after", ""))
    except ValueError:  # absent, or a date
        return otherwise
    return min(max(seconds, 0.0), _LONGEST_WAIT) if math.isfinite(seconds) else otherwise
