# ruff: noqa: E402 (torch and transformers are optional)
"""The trie of prefixes and the batches made of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from svip_search._question_key import question_key
from svip_search._types import Question
from svip_search.models.kv_cache import BatchCache, KeyValues, Node, PrefixTrie


def slices(*lengths: int, layers: int = 2, fill: float | None = None) -> list[KeyValues]:
    layout = tuple(((0, 2 * i), (0, 2 * i + 1)) for i in range(layers))
    found = []
    for n in lengths:
        tensor = torch.randn(2 * layers, 3, n, 4)
        found.append(KeyValues((tensor if fill is None else torch.full_like(tensor, fill),), layout))
    return found


@pytest.fixture(scope="module")
def llama() -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config).eval()


def prefill(model: Any, ids: list[int]) -> tuple[Any, Any]:
    cache = DynamicCache()
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids]), past_key_values=cache, use_cache=True).logits
    return cache, logits[0]


def test_a_batch_continues_like_the_whole_sequences(llama: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(0, 50, (n,), generator=generator).tolist() for n in (5, 9, 3)]
    pieces = []
    for ids in rows:
        cache, _ = prefill(llama, ids)
        cut = len(ids) // 2
        pieces.append([KeyValues.from_cache(cache, stop=cut), KeyValues.from_cache(cache, start=cut)])
    repeats = [2, 1, 3]
    batch = BatchCache.assemble(pieces, repeats, reserve=1)  # one column: it has to grow
    full = [list(ids) for ids, count in zip(rows, repeats, strict=True) for _ in range(count)]
    order = list(range(len(full)))
    for step in range(6):
        if step == 3:
            batch.keep([1, 3, 5])
            order = [order[i] for i in (1, 3, 5)]
        tokens = torch.randint(0, 50, (len(order), 2), generator=generator)
        positions = torch.tensor([[len(full[i]), len(full[i]) + 1] for i in order])
        with torch.no_grad():
            mask = batch.attention_mask(2)
            logits = llama(
                input_ids=tokens,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=batch,
                use_cache=True,
            ).logits
        for row, i in enumerate(order):
            full[i] += tokens[row].tolist()
            cache, expected = prefill(llama, full[i])
            torch.testing.assert_close(logits[row], expected[-2:], atol=1e-4, rtol=1e-4)
            taken = batch.take(row, 0, len(full[i]))
            for got, wanted in zip(taken.groups, KeyValues.from_cache(cache).groups, strict=True):
                torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)


def test_keep_drops_padding_that_all_rows_share() -> None:
    batch = BatchCache.assemble([slices(2), slices(7), slices(4, 1)])
    assert (batch.length, batch.rows, batch.starts.tolist()) == (7, 3, [5, 0, 2])
    kept = [batch.take(i, 0, n) for i, n in ((0, 2), (2, 5))]
    batch.keep([0, 2])
    assert (batch.length, batch.rows, batch.starts.tolist()) == (5, 2, [3, 0])
    for i, (n, before) in enumerate(zip((2, 5), kept, strict=True)):
        assert torch.equal(batch.take(i, 0, n).groups[0], before.groups[0])
    mask = batch.attention_mask(1)
    assert mask is not None
    assert mask.tolist() == [[False] * 3 + [True] * 3, [True] * 6]


def test_equal_lengths_need_no_mask_and_padding_is_zero() -> None:
    assert BatchCache.assemble([slices(3), slices(1, 2)]).attention_mask(1) is None
    batch = BatchCache.assemble(
        [slices(1, fill=float("nan")), slices(3, fill=1.0)],
    )
    assert batch.buffers[0][:, 0, :, :2].eq(0).all()


def test_layers_of_different_shapes_share_a_batch() -> None:
    cache = DynamicCache()
    shapes = [(2, 4), (1, 8), (2, 4)]
    for i, (heads, width) in enumerate(shapes):
        cache.update(torch.randn(1, heads, 5, width), torch.randn(1, heads, 5, width), i)
    taken = KeyValues.from_cache(cache)
    assert len(taken.groups) == 2
    assert taken.length == 5
    batch = BatchCache.assemble([[taken.cut(0, 2), taken.cut(2, 5).copy()]], [2])
    for mine, theirs in zip(batch.layers, cache.layers, strict=True):
        assert torch.equal(mine.keys[1], theirs.keys[0])
        assert torch.equal(mine.values[0], theirs.values[0])


def test_a_copy_keeps_nothing_else_alive() -> None:
    (long,) = slices(1000)
    assert long.cut(0, 2).copy().groups[0].untyped_storage().nbytes() == 2 * 4 * 3 * 4 * 4


def test_an_empty_row_is_refused() -> None:
    with pytest.raises(ValueError, match="`rows` must hold"):
        BatchCache.assemble([])
    with pytest.raises(ValueError, match="`rows` must hold"):
        BatchCache.assemble([slices(3), []])


def test_find_and_add() -> None:
    trie = PrefixTrie(100)
    assert trie.find("q", ("a",)) == []
    (kv_root, kv_a) = slices(10, 4)
    root = trie.add_root("q", range(11), kv_root, extra=7)
    a = trie.add(root, "a", (1, 2, 3, 4), kv_a)
    assert trie.find("q", ("a", "b")) == [root, a]
    assert trie.find("q", ("b",)) == [root]
    assert trie.find("other", ()) == []
    assert trie.add_root("q", range(11), extra=8).extra == 7
    assert trie.add(root, "a", (9,)) is a
    assert a.ids == (1, 2, 3, 4)
    assert a.end == 15
    assert (trie.tokens, trie.id_tokens, len(trie)) == (14, 15, 2)
    trie.clear()
    assert (trie.tokens, trie.id_tokens, len(trie), root.kv) == (0, 0, 0, None)


def test_leaves_of_what_was_used_longest_ago_go_first() -> None:
    trie = PrefixTrie(30)
    roots = [trie.add_root(k, range(5), slices(10)[0]) for k in "pq"]
    leaf = trie.add(roots[0], "a", (1,), slices(10)[0])
    assert trie.tokens == 30
    trie.find("q", ())
    trie.add(roots[1], "b", (1,), slices(1)[0])
    assert leaf.kv is None
    assert roots[0].kv is not None
    assert trie.find("p", ("a",)) == [roots[0], leaf]  # the ids stay
    assert trie.tokens == 21


def test_steps_go_before_prompts() -> None:
    trie = PrefixTrie(100)
    old = trie.add_root("p", range(40), slices(40)[0])
    new = trie.add_root("q", range(40), slices(40)[0])
    steps = [trie.add(new, text, (1,), slices(8)[0]) for text in "abcdef"]
    assert old.kv is not None  # used before all the steps
    assert [step.kv is not None for step in steps] == [False] * 4 + [True] * 2
    trie.find("q", "e")
    trie.add(new, "g", (1,), slices(8)[0])
    assert [step.kv is not None for step in steps[4:]] == [True, False]
    assert trie.tokens == 96


def test_prompts_nobody_asks_for_leave_room_for_steps() -> None:
    trie = PrefixTrie(80)
    roots = [trie.add_root(key, range(10), slices(10)[0]) for key in "abcdefgh"]
    child = trie.add(roots[0], "a step", (1,), slices(5)[0])  # "a" has been used last now
    assert [root.kv is not None for root in roots] == [True, False] + [True] * 6
    assert (child.kv is not None, trie.tokens) == (True, 75)
    for i in range(3):
        trie.add(roots[7], str(i), (1,), slices(5)[0])
    assert sum(root.kv is not None for root in roots) == 7
    assert trie.tokens == 80
    for key in "ghijklm":
        trie.add_root(key, range(10), slices(10)[0])
    assert (roots[0].kv, child.kv) == (None, None)  # a prompt takes its steps along


def test_the_only_prompt_stays_as_long_as_there_are_steps() -> None:
    trie = PrefixTrie(100)
    root = trie.add_root("p", range(95), slices(95)[0])
    steps = [trie.add(root, text, (1,), slices(4)[0]) for text in "abc"]
    assert root.kv is not None
    assert [step.kv is not None for step in steps] == [False, False, True]


def test_forget() -> None:
    trie = PrefixTrie(100)
    roots = [trie.add_root(key, range(11), slices(10)[0]) for key in "pq"]
    leaves = [trie.add(trie.add(r, "a", (1, 2), slices(3)[0]), "b", (1,), slices(2)[0]) for r in roots]
    trie.forget("unknown")
    assert (trie.tokens, trie.id_tokens, len(trie)) == (30, 28, 6)
    trie.forget("p")
    trie.forget("p")
    assert (trie.tokens, trie.id_tokens, len(trie)) == (15, 14, 3)
    assert trie.find("p", ()) == []
    assert (leaves[0].kv, leaves[0].parent.kv) == (None, None)
    assert trie.find("q", "ab")[-1] is leaves[1]
    assert leaves[1].kv is not None
    trie.add(leaves[0], "c", (1,), slices(1)[0])  # the caller may go on with what it holds
    assert (trie.tokens, len(trie)) == (15, 3)
    assert trie.add_root("p", range(11), slices(10)[0]) is not roots[0]


def test_a_slice_without_what_comes_before_is_not_kept() -> None:
    trie = PrefixTrie(100)
    root = trie.add_root("q", range(5))
    assert trie.add(root, "a", (1,), slices(3)[0]).kv is None
    assert trie.tokens == 0


def test_forgets_ids_at_last() -> None:
    trie = PrefixTrie(10, id_capacity=10)
    old = trie.add_root("p", range(4), slices(2)[0])
    child = trie.add(old, "a", range(3), slices(2)[0])
    trie.add_root("q", range(6))
    assert trie.find("p", ("a",)) == [old]
    assert child.kv is None
    trie.add_root("r", range(9))
    assert trie.find("p", ()) == []
    assert (trie.tokens, trie.id_tokens) == (0, 9)
    detached = trie.add(old, "b", (1,), slices(1)[0])
    assert detached.parent is old
    assert (len(trie), trie.tokens) == (1, 0)


def test_capacity_is_checked() -> None:
    with pytest.raises(ValueError, match="`capacity` must be >= 0"):
        PrefixTrie(-1)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 40),
    st.lists(
        st.tuples(st.sampled_from("pqrs"), st.lists(st.sampled_from("ab"), max_size=4), st.integers(0, 9)), max_size=30
    ),
)
def test_invariants(capacity: int, uses: list[tuple[str, list[str], int]]) -> None:
    trie = PrefixTrie(capacity, id_capacity=60)
    for key, prefix, dice in uses:
        if dice == 0:
            trie.forget(key)
            assert key not in trie.roots
        nodes = trie.find(key, prefix)
        node = nodes[-1] if nodes else trie.add_root(key, range(5))
        trie.attach(nodes[0] if nodes else node, slices(5)[0])
        for text in prefix[max(0, len(nodes) - 1) :]:
            node = trie.add(node, text, range(3), slices(3)[0])
        known: list[Node] = list(trie)
        assert trie.tokens == sum(n.kv.length for n in known if n.kv is not None) <= capacity
        assert trie.id_tokens == sum(len(n.ids) for n in known) <= 60
        assert set(trie.roots.values()) == {n for n in known if n.parent is None}
        for n in known:
            assert n.parent is None or n.parent in known
            assert n.kv is None or n.parent is None or n.parent.kv is not None


def test_question_key_sees_what_a_model_sees(tmp_path: Path) -> None:
    from PIL import Image

    array = np.zeros((4, 6, 3), np.uint8)
    path = tmp_path / "a.png"
    Image.fromarray(array).save(path)
    base = question_key(Question("what?", images=[array], options=["1", "2"]))
    assert base == question_key(Question("what?", images=[array.copy()], options=["1", "2"], answer="1", id="x"))
    others = [
        Question("what!", images=[array], options=["1", "2"]),
        Question("what?", images=[array], options=["12"]),
        Question("what?", images=[array, array], options=["1", "2"]),
        Question("what?", images=[array.reshape(6, 4, 3)], options=["1", "2"]),
        Question("what?", images=[array + 1], options=["1", "2"]),
        Question("what?", images=[path], options=["1", "2"]),
        Question("what?", options=["1", "2"]),
    ]
    assert len({base, *map(question_key, others)}) == len(others) + 1
    before = question_key(others[5])
    Image.fromarray(np.ones((40, 60, 3), np.uint8)).save(path)
    assert question_key(others[5]) != before
