from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentgym.errors import UsageError
from agentgym.trainers.prefix_tree.blocks import MicroBatch
from agentgym.trainers.prefix_tree.tree import Row, TokenTree


def row(tokens: list[int], scored: list[int] | None = None, key: object = None) -> Row:
    at = range(1, len(tokens)) if scored is None else scored
    return Row(np.array(tokens, np.int32), np.array(list(at), np.int64), key)  # type: ignore[arg-type]


@st.composite
def random_rows(draw: st.DrawFn) -> list[Row]:
    """Rows over three tokens, so that prefixes collide: copies, prefixes of others, single tokens, nothing scored."""
    rows: list[Row] = []
    for _ in range(draw(st.integers(1, 8))):
        start = list(draw(st.sampled_from(rows)).tokens) if rows and draw(st.booleans()) else []
        start = start[: draw(st.integers(0, len(start)))]
        tokens = [int(t) for t in start] + draw(st.lists(st.integers(0, 2), min_size=0 if start else 1, max_size=12))
        scored = [j for j in range(1, len(tokens)) if draw(st.booleans())]
        rows.append(row(tokens, scored, draw(st.sampled_from([None, None, "a", "b"]))))
    return rows


def seen_by(batch: MicroBatch) -> dict[int, list[int]]:
    """The nodes that each node attends to, read off the blocks as attention reads them."""
    slots: list[tuple[int, list[int]]] = []
    for block in batch.blocks:
        for queries, keys, exits in zip(block.queries, block.keys, block.exits, strict=True):
            slots += [(int(q), keys[(keys <= q) & (q < exits)].tolist()) for q in queries]
    return {node: slots[at][1] for node, at in enumerate(batch.outputs) if slots[at][0] == node}


def test_hand_example() -> None:
    #        1 2 3 (4)       rows end at the node that predicts their last token, so 4, 5 and 6 are no nodes
    #        1 2 3 (5)       and the trie is 1 - 2 - 3: nodes 0, 1, 2
    #        1 2 (6)
    tree = TokenTree.build([row([1, 2, 3, 4]), row([1, 2, 3, 5], [3]), row([1, 2, 6], [2])])
    assert tree.tokens.tolist() == [1, 2, 3]
    assert tree.row_tokens == 3 + 3 + 2
    assert tree.sharing == 8 / 3
    assert tree.offsets.tolist() == [0, 3, 4, 5]
    assert tree.parent.tolist() == [0, 1, 2, 2, 1]
    assert tree.target.tolist() == [2, 3, 4, 5, 6]


def test_depth_first_numbers_and_the_mask_rule() -> None:
    #   7 - 3 - 4 - 5     nodes 0 1 2 3: the longest branch comes first,
    #     |   \ 6                   4    what hangs below it next,
    #      \ 1 - 2              5 6      then the other branch
    tree = TokenTree.build([row([7, 1, 2, 0], [3]), row([7, 3, 4, 5, 0], [4]), row([7, 3, 6, 0], [3])])
    assert tree.tokens.tolist() == [7, 3, 4, 5, 6, 1, 2]
    assert tree.depth.tolist() == [0, 1, 2, 3, 2, 1, 2]
    assert tree.exit.tolist() == [7, 5, 4, 4, 5, 7, 7]
    assert [tree.path(r).tolist() for r in range(3)] == [[0, 5, 6], [0, 1, 2, 3], [0, 1, 4]]


@given(random_rows())
def test_a_query_sees_its_ancestors_and_nothing_else(rows: list[Row]) -> None:
    tree = TokenTree.build(rows)
    for r in range(len(rows)):
        path = tree.path(r)
        assert tree.tokens[path].tolist() == list(rows[r].tokens[: len(path)])
        for depth, query in enumerate(path):
            visible = [k for k in range(len(tree.tokens)) if k <= query < tree.exit[k]]
            assert visible == path[: depth + 1].tolist()
    assert len(tree.tokens) == len(
        {tuple(r.tokens[: i + 1]) for r in rows if len(r.scored) for i in range(r.scored[-1])}
    )


@settings(max_examples=200)
@given(random_rows(), st.one_of(st.none(), st.integers(1, 30)))
def test_micro_batches_cover_every_scored_token_once(rows: list[Row], limit: int | None) -> None:
    tree = TokenTree.build(rows)
    batches = tree.batches(limit)
    assert sorted(np.concatenate([[], *(b.scored for b in batches)]).tolist()) == list(range(len(tree.target)))
    assert sorted(r for b in batches for r in b.rows) == [r for r in range(len(rows)) if len(rows[r].scored)]
    for key in "ab":
        assert sum(any(rows[r].keep_together == key for r in b.rows) for b in batches) <= 1
    for batch in batches:
        kept_together = {rows[r].keep_together for r in batch.rows}
        assert limit is None or len(batch.tokens) <= limit or (len(batch.rows) == 1 or kept_together in ({"a"}, {"b"}))
        seen = seen_by(batch)
        assert sorted(seen) == list(range(len(batch.tokens)))
        assert all(batch.positions[keys].tolist() == list(range(len(keys))) for keys in seen.values())
        parent, token = batch.parents[batch.pair_parent[batch.pairs]], batch.pair_token[batch.pairs]
        s = 0
        for r in batch.rows:
            for j in rows[r].scored:
                context = batch.tokens[seen[int(parent[s])]]
                assert [*context, token[s]] == list(rows[r].tokens[: j + 1])
                s += 1
        assert s == len(batch.scored)
        # each prediction once
        assert len({(p, t) for p, t in zip(batch.pair_parent, batch.pair_token, strict=True)}) == len(batch.pair_token)
        assert len(batch.parents) == len(set(batch.parents.tolist()))


@given(random_rows(), st.randoms())
def test_the_order_of_rows_changes_nothing_but_the_order(rows: list[Row], random: object) -> None:
    tree = TokenTree.build(rows)
    order = list(range(len(rows)))
    random.shuffle(order)  # type: ignore[attr-defined]
    other = TokenTree.build([rows[r] for r in order])
    assert other.tokens.tolist() == tree.tokens.tolist()
    assert [other.path(i).tolist() for i in range(len(rows))] == [tree.path(r).tolist() for r in order]


def test_a_full_history_episode_is_one_chain() -> None:
    tokens = np.random.default_rng(0).integers(0, 1000, 600)
    turns = [Row(tokens[:end], np.arange(end - 8, end)) for end in range(20, 601, 20)]
    tree = TokenTree.build(turns)
    assert len(tree.tokens) == 599
    assert tree.row_tokens == sum(range(19, 600, 20))
    (batch,) = tree.batches()
    (block,) = batch.blocks
    assert block.causal
    assert block.keys.shape == (1, 600)  # 599 rounded up to a multiple of 8
    assert batch.tokens.tolist() == tokens[:599].tolist()


def test_answers_beside_an_episode_leave_it_one_chain() -> None:
    tokens = np.arange(1000, 1600)
    answers = [
        Row(np.concatenate([tokens[:end], [1, 2, 3, 4]]), np.arange(end + 2, end + 4)) for end in (100, 200, 300)
    ]
    episode = Row(tokens, np.arange(500, 600))
    tree = TokenTree.build([*answers, episode])
    assert len(tree.tokens) == 599 + 3 * 3
    (batch,) = tree.batches()
    chain, *others = batch.blocks
    assert chain.causal
    assert chain.keys.shape == (1, 600)
    assert not any(block.causal for block in others)
    # the answers' own nodes follow the episode's: 599 to 601 after token 300, then those after 200, then after 100
    seen = seen_by(batch)
    assert [seen[node][:-1] for node in (599, 602, 605)] == [list(range(end)) for end in (300, 200, 100)]


def test_several_answers_to_one_question_share_their_keys() -> None:
    context = np.arange(100, 1100)
    rows = [Row(np.concatenate([context, [1, 2, answer, 3, 4, 5]]), np.arange(1002, 1006)) for answer in (7, 8, 9)]
    (batch,) = TokenTree.build([Row(np.append(context, range(2000, 2600)), np.arange(1500, 1600)), *rows]).batches()
    chain, answers = batch.blocks
    assert chain.keys.shape == (1, 1600)
    # one answer brings 2 + 3 nodes, each other one 3 more: 11, rounded up to 16; keys are the context and these
    assert (answers.queries.shape, answers.keys.shape) == ((1, 16), (1, 1016))
    assert batch.positions[seen_by(batch)[len(batch.tokens) - 1]].tolist() == list(range(1005))


def test_a_prefix_is_repeated_at_the_border_of_a_micro_batch() -> None:
    prompt = list(range(10, 20))
    rows = [row([*prompt, c, c, c], [10, 11, 12]) for c in range(4)]
    tree = TokenTree.build(rows)
    assert len(tree.tokens) == 10 + 4 * 2
    assert [len(b.tokens) for b in tree.batches(14)] == [14, 14]
    assert [len(b.tokens) for b in tree.batches(1)] == [12] * 4
    assert [b.rows.tolist() for b in tree.batches(14)] == [[0, 1], [2, 3]]


def test_a_micro_batch_is_cut_where_the_shortest_prefix_is_repeated() -> None:
    prompts = [list(range(start, start + 10)) for start in (100, 200, 300)]
    rows = [row([*prompt, c, c, c], [10, 11, 12]) for prompt in prompts for c in range(3)]
    tree = TokenTree.build(rows)
    # a prompt with its completions has 10 + 3 * 2 nodes, so 20 leaves room for half of the next prompt's
    assert [b.rows.tolist() for b in tree.batches(20)] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    # turns of two episodes with one token in common: 20 + 19 nodes; a limit of 26 is met within the second one
    first, second = [1, *range(10, 30)], [1, *range(40, 60)]
    turns = [row(tokens[:end], [end - 1]) for tokens in (first, second) for end in (6, 11, 16, 21)]
    assert [b.rows.tolist() for b in TokenTree.build(turns).batches(26)] == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_rows_kept_together_exceed_the_limit_rather_than_part() -> None:
    tree = TokenTree.build([row([1, 2, 3], key="e"), row([4, 5, 6]), row([7, 8, 9], key="e")])
    assert [b.rows.tolist() for b in tree.batches(3)] == [[0, 2], [1]]
    assert [b.scored.tolist() for b in tree.batches(3)] == [[0, 1, 4, 5], [2, 3]]


def test_nothing_scored_is_nothing_computed() -> None:
    tree = TokenTree.build([row([5]), row([1, 2, 3], [])])
    assert (len(tree.tokens), tree.row_tokens, tree.sharing, tree.batches()) == (0, 0, 1.0, [])
    assert tree.path(1).tolist() == []
    assert TokenTree.build([]).batches(3) == []


def test_token_ids_sort_as_numbers() -> None:
    # 256 after 2, although its lowest byte is 0
    tree = TokenTree.build([row([256, 1]), row([2, 1]), row([65536, 1])])
    assert tree.tokens.tolist() == [2, 256, 65536]


def test_a_large_chain() -> None:
    tokens = np.random.default_rng(1).integers(0, 150_000, 100_000)
    tree = TokenTree.build([Row(tokens, np.arange(1, 100_000)), Row(tokens[:50_000], np.array([49_999]))])
    (batch,) = tree.batches()
    assert len(batch.tokens) == 99_999
    assert batch.scored.tolist() == list(range(100_000))
    assert batch.pairs[-1] == batch.pairs[49_998]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row([1, 2], [0])], r"row 0: scored positions \[0\] must ascend within 1..1; the first token has no context"),
        ([row([1, 2]), row([1, 2], [2])], r"row 1: scored positions \[2\] must ascend within 1..1"),
        ([row([1, 2, 3], [2, 1])], r"row 0: scored positions \[2, 1\] must ascend"),
        ([row([1, 2, 3], [1, 1])], r"row 0: scored positions \[1, 1\] must ascend"),
        ([row([1, -1, 3])], "token id -1 is negative; give vocabulary ids >= 0"),
        ([row([1, 3, -2], [2])], "token id -2 is negative"),
    ],
)
def test_rows_that_are_refused(rows: list[Row], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TokenTree.build(rows)


def test_a_limit_that_is_refused() -> None:
    with pytest.raises(UsageError, match="max_tokens=0: a micro-batch needs at least 1 token; give None for no limit"):
        TokenTree.build([row([1, 2])]).batches(0)


def test_one_token_drawn_among_different_sets_is_two_predictions():
    rows = [Row(np.array([1, 2]), np.array([1]), choices=c) for c in ([[2, 3]], [[2, 4, 5]], [[2, 3]], None)]
    (batch,) = TokenTree.build(rows).batches()
    assert batch.pair_choices.tolist() == [[-1, -1, -1], [2, 3, -1], [2, 4, 5]]
    assert batch.pairs.tolist() == [1, 2, 1, 0]
    (plain,) = TokenTree.build(rows[3:]).batches()
    assert plain.pair_choices is None


def test_choices_for_other_tokens_than_the_scored_ones_are_refused():
    with pytest.raises(UsageError, match="row 0: choices for 2 tokens, but 1 are scored"):
        TokenTree.build([Row(np.array([1, 2]), np.array([1]), choices=[[2], [3]])])
