"""Whatever a server sends instead of an answer is an unreadable answer, which is asked for again, and nothing else."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentgym.endpoint.policy import _model_names
from agentgym.endpoint.server import UnreadableAnswer, decoded
from agentgym.endpoint.wire import Answer, read_chat, read_completion, read_generate
from agentgym.errors import PolicyError

CHAT = {
    "choices": [
        {
            "message": {"content": "go", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]},
            "logprobs": {"content": [{"logprob": -0.5}, {"logprob": -1}]},
            "token_ids": [5, 6],
        }
    ],
    "prompt_token_ids": [1, 2, 3],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2},
}
COMPLETION = {
    "choices": [
        {
            "token_ids": None,
            "logprobs": {"tokens": ["token_id:5", "token_id:6"], "token_logprobs": [-0.5, -1.0]},
        }
    ],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2},
}
GENERATE = {
    "output_ids": [5, 6],
    "meta_info": {"output_token_logprobs": [[-0.5, 5, None], [-1.0, 6, None]], "prompt_tokens": 3},
}
MODELS = {"data": [{"id": "a"}]}
READERS = [(read_chat, CHAT), (read_completion, COMPLETION), (read_generate, GENERATE), (_model_names, MODELS)]
ODD = [
    *(
        None,
        True,
        0,
        -1,
        1.5,
        -0.0,
        10**400,
        -(10**400),
        2**63,
        1e308,
        math.nan,
        math.inf,
        "",
        "x",
        "\ud800",
        "token_id:-1",
    ),
    *([], [[]], [None], ["token_id:x"], {}, {"a": 1}, [{}], [1.5], [True], [-1, -1], [5, 6, 7], [math.nan, 1]),
]
odd = st.sampled_from(ODD) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "content", "0"]), inner, max_size=2)
    ),
    max_leaves=6,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def put(told: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    whole = copy.deepcopy(told)
    holder = whole
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    return whole


def sound(answer: Answer | list[str]) -> bool:
    """Whether everything in it can be recorded, stored and learned from."""
    if isinstance(answer, list):
        return all(isinstance(name, str) for name in answer)
    ids = [*answer.context, *answer.action]
    answer.text.encode()
    assert all(type(i) is int and 0 <= i < 2**31 for i in ids), ids
    assert all(type(p) is float and math.isfinite(p) and p <= 0.0 for p in answer.logprobs), answer.logprobs
    assert len(answer.logprobs) in (0, len(answer.action))
    assert all(type(n) is int and 0 <= n < 2**31 for n in (answer.prompt_tokens, answer.completion_tokens))
    return True


@pytest.mark.parametrize(("read", "told"), READERS)
def test_any_value_in_any_place(read: Any, told: Any) -> None:
    refused = 0
    for path in places(told):
        for value in ODD:
            try:
                assert sound(read(put(told, path, value)))
            except (UnreadableAnswer, PolicyError):
                refused += 1
    assert refused > 20


@pytest.mark.parametrize(("read", "told"), READERS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_json_at_all(read: Any, told: Any, data: Any) -> None:
    path = data.draw(st.sampled_from(list(places(told))))
    try:
        assert sound(read(put(told, path, data.draw(odd))))
    except (UnreadableAnswer, PolicyError):
        return


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff", b'{"a": NaN}', b'{"a": 1e999}', b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}", b"Infinity"],
)
def test_bodies_that_are_no_json(body: bytes) -> None:
    with pytest.raises(UnreadableAnswer, match="not JSON, it begins with"):
        decoded(body)


def test_sound_answers_are_read() -> None:
    chat = read_chat(CHAT)
    assert (chat.context, chat.action, chat.logprobs) == ((1, 2, 3), (5, 6), (-0.5, -1.0))
    assert json.loads(chat.text)["tool_calls"][0]["function"]["name"] == "f"
    assert read_completion(COMPLETION).action == (5, 6)
    assert read_generate(GENERATE).logprobs == (-0.5, -1.0)
    assert read_chat(put(CHAT, ("choices", 0, "message"), {"content": "a\ud800"})).text == "a?"
    rounded = put(COMPLETION, ("choices", 0, "logprobs", "token_logprobs"), [1e-7, -1.0])  # as float32 sums give
    assert read_completion(rounded).logprobs == (0.0, -1.0)
