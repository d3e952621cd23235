"""Every rival in the benchmark of the tree attention computes what the reference computes."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from svip_search.kernels import triatt as op

HERE = Path(__file__).resolve().parent
BENCHMARKS = HERE.parent / "benchmarks"
PATHS = [str(BENCHMARKS), str(BENCHMARKS / "kernels"), str(HERE / "kernels")]  # none is a package
sys.path[:0] = PATHS

import baselines  # noqa: E402
import ceilings  # noqa: E402
import compare_triatt  # noqa: E402
import gpu_baselines  # noqa: E402
import ours  # noqa: E402
import plan_twin  # noqa: E402
import report  # noqa: E402
import timing  # noqa: E402
import trees  # noqa: E402

CASES = [
    trees.Case(shape, 64, prefix, width, heads, dtype, mode)
    for shape in ("beam", "mcts")
    for mode in ("full", "frontier")
    for prefix, width, heads, dtype in [(40, 16, 3, "float32"), (1, 24, 1, "float32"), (33, 16, 1, "bfloat16")]
]
SMALL = trees.Case("mcts", 64, 20, 16)
EAGER = {  # FlexAttention is compiled in one test: it takes ten seconds
    name: baseline for name, baseline in baselines.BASELINES.items() if not name.startswith("flex")
} | {"flex": lambda work, limits: baselines.flex(work, limits, compiled=False)}
NO_LIMITS = baselines.Limits()


def make(case: trees.Case) -> trees.Workload:
    return trees.make(case, seed=int(np.random.default_rng().integers(1 << 31)))


def reference(work: trees.Workload) -> baselines.Output:
    out = op.triatt(work.tree, work.frontier, work.q.double(), work.head, return_att=True, backend="reference")
    return baselines.Output(out.scores, out.att)


def assert_equals_the_reference(ready: baselines.Ready, work: trees.Workload) -> None:
    output = ready.output()
    assert output.att.shape == (len(work.frontier), 3, work.case.width)
    assert compare_triatt.difference(output, reference(work)) < compare_triatt.TOLERANCE[work.case.dtype]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("name", EAGER)
def test_baselines_equal_the_reference(name, case):
    work = make(case)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "flex_attention called without torch.compile")
        assert_equals_the_reference(EAGER[name](work, NO_LIMITS), work)


@pytest.fixture
def all_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.usefixtures("all_threads")
def test_ours_equals_the_reference(case):
    work, left_out = make(case), set()
    for name, way in ours.ON_CPU.items():
        try:
            ready = way(work, NO_LIMITS)
        except baselines.Skipped:
            left_out.add(name)
            continue
        assert_equals_the_reference(ready, work)
        ready.run()
    expected = {"ours, bfloat16 products"} if case.dtype == "float32" else set()
    expected |= {"ours, full re-score"} if case.mode == "full" else set()
    assert left_out == expected


def test_one_call_is_left_out_where_others_have_fewer_threads(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: torch.get_num_threads() + 1)
    with pytest.raises(baselines.Skipped, match="it takes all threads"):
        ours.one_call(make(SMALL), NO_LIMITS)


def test_growing_a_tree_gives_the_scores_of_the_whole(monkeypatch):
    work = make(trees.Case("mcts", 64, 20, 16, mode="frontier"))
    scored = []

    def recorded(self, frontier, q, head, **options):
        out = score(self, frontier, q, head, **options)
        scored.append((frontier, q, out.scores))
        return out

    score = op.PagedTree.score
    monkeypatch.setattr(op.PagedTree, "score", recorded)
    for everything in (False, True):
        scored.clear()
        assert all(append > 0 and score_ > 0 for append, score_ in ours.grow(work, everything))
        wanted = [range(1, last) if everything else range(last - 4, last) for last in range(5, 66, 4)]
        assert [list(frontier) for frontier, _, _ in scored] == [list(nodes) for nodes in wanted]
        frontier, q, scores = scored[-1]
        whole = op.triatt(work.tree, frontier, torch.as_tensor(q), work.head, backend="reference").scores
        np.testing.assert_allclose(scores, whole, atol=1e-6)


def test_flex_with_a_new_mask_in_every_call(monkeypatch):
    """Compiled, it takes ten seconds; `compare_triatt` checks that in every run."""
    from torch.nn.attention.flex_attention import flex_attention

    monkeypatch.setattr(baselines, "_compiled_flex", lambda work: flex_attention)
    work = make(SMALL)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "flex_attention called without torch.compile")
        assert_equals_the_reference(baselines.flex_rebuilt(work, NO_LIMITS), work)


def attend(q, k, v, mask=None):
    """Return the output and the logarithm of the sum, for q [M, 3, d] and k, v [L, heads, d]."""
    k, v = (a.expand(-1, 3, -1).double() for a in (k, v))
    logits = torch.einsum("mhd,lhd->hml", q.double(), k) / math.sqrt(q.shape[-1])
    if mask is not None:
        logits = logits + mask.double()
    top = logits.amax(-1, keepdim=True) if k.shape[0] else logits.new_zeros(3, len(q), 1)
    top = top.clamp_min(-1e300)
    weights = torch.exp(logits - top)
    total = weights.sum(-1, keepdim=True)
    out = torch.einsum("hml,lhd->mhd", weights / total.clamp_min(1e-300), v)
    return out, (top + torch.log(total))[..., 0].T


class FakeFlashAttention:
    """What flash-attn documents, slowly."""

    @staticmethod
    def flash_attn_varlen_func(q, k, v, starts_q, starts_k, max_q, max_k):
        assert starts_q.dtype == starts_k.dtype == torch.int32
        assert max_k == int(torch.diff(starts_k).max()) and max_q == int(torch.diff(starts_q).max())
        pieces = zip(starts_q[:-1], starts_q[1:], starts_k[:-1], starts_k[1:], strict=True)
        return torch.cat([attend(q[a:b], k[x:y], v[x:y])[0] for a, b, x, y in pieces])


class FakeFlashInfer:
    """What FlashInfer documents, slowly: groups of rows of each level have pages; the levels are merged."""

    def __init__(self, n_levels, workspace, layout):
        assert (workspace.dtype, layout) == (torch.uint8, "NHD")
        self.n_levels = n_levels

    def plan(self, rows, page_bounds, pages, last, *, num_qo_heads, num_kv_heads, head_dim, page_size, q_data_type):
        assert len(rows) == len(page_bounds) == len(pages) == len(last) == self.n_levels
        assert all(t.dtype == torch.int32 for arrays in (rows, page_bounds, pages, last) for t in arrays)
        assert num_qo_heads == 3
        self.levels = list(zip(rows, page_bounds, pages, last, strict=True))
        self.shape = (page_size, 2, num_kv_heads, head_dim)
        self.dtype = q_data_type

    def run(self, q, cache):
        page_size, _, heads, width = self.shape
        assert cache.shape[1:] == (2, page_size, heads, width) and cache.dtype == q.dtype == self.dtype
        total, out = torch.zeros(len(q), 3, 1).double(), torch.zeros(*q.shape).double()
        for rows, bounds, pages, last in self.levels:
            assert int(rows[0]) == 0 and int(rows[-1]) == len(q) and len(last) == len(rows) - 1
            for i in range(len(last)):
                own = pages[bounds[i] : bounds[i + 1]].long()
                if not len(own):
                    continue
                n_tokens = (len(own) - 1) * page_size + int(last[i])
                k, v = (cache[own, part].reshape(-1, heads, width)[:n_tokens] for part in (0, 1))
                piece, lse = attend(q[rows[i] : rows[i + 1]], k, v)
                weight = torch.exp(lse)[..., None]
                out[rows[i] : rows[i + 1]] += weight * piece
                total[rows[i] : rows[i + 1]] += weight
        return out / total

    MultiLevelCascadeAttentionWrapper = None  # set below


FakeFlashInfer.MultiLevelCascadeAttentionWrapper = FakeFlashInfer


class FakeXformers:
    """What xformers documents, slowly: a prefix that all see, and the rest under a mask."""

    class BlockDiagonalPaddedKeysMask:
        @staticmethod
        def from_seqlens(q_seqlen, kv_padding, kv_seqlen):
            assert [kv_padding] == kv_seqlen
            return q_seqlen, kv_seqlen

    @staticmethod
    def tree_attention(q, spec_k, spec_v, cache_k, cache_v, mask, prefix):
        assert mask.shape == (q.shape[1], spec_k.shape[1]) and mask.shape[0] <= mask.shape[1]
        assert q.shape[2:] == spec_k.shape[2:] == cache_k.shape[2:]
        assert prefix == ([q.shape[1]], [cache_k.shape[1]])
        assert mask.stride(0) % 8 == 0
        a, lse_a = attend(q[0], cache_k[0], cache_v[0])
        b, lse_b = attend(q[0], spec_k[0], spec_v[0], mask)
        share = torch.sigmoid(lse_a - lse_b)[..., None]
        return (share * a + (1 - share) * b)[None]


@pytest.mark.parametrize("case", [case for case in CASES if case.dtype == "bfloat16"], ids=str)
@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("name", gpu_baselines.GPU_BASELINES)
def test_gpu_baselines_pass_the_right_arguments(name, heads, case, monkeypatch):
    """The libraries are not here: their documented behaviour is, in plain torch."""
    fakes = {"flash_attn": FakeFlashAttention, "flashinfer": FakeFlashInfer,
             "xformers.ops.tree_attention": FakeXformers, "xformers.ops.fmha.attn_bias": FakeXformers}  # fmt: skip
    monkeypatch.setattr(gpu_baselines.importlib, "import_module", fakes.__getitem__)
    work = make(trees.Case(case.shape, case.nodes, case.prefix, case.width, heads, case.dtype, case.mode))
    assert_equals_the_reference(gpu_baselines.GPU_BASELINES[name](work, NO_LIMITS), work)


PLANNED = """
import sys
sys.path[:0] = {paths!r}
import baselines, compare_triatt, ours, trees
from svip_search.kernels.triatt import triatt
work = trees.make(trees.Case("mcts", 64, 8, 16, 3, "float32", "frontier"))
ready = ours.ON_GPU["ours"](work, baselines.Limits())
out = triatt(work.tree, work.frontier, work.q.double(), work.head, return_att=True, backend="reference")
print(compare_triatt.difference(ready.output(), baselines.Output(*out[:2])))
"""


def test_planned_triton_equals_the_reference_in_the_interpreter():
    if "triton" not in op_table() or importlib.util.find_spec("triton") is None:
        pytest.skip("no Triton backend")
    code = PLANNED.format(paths=PATHS)
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < compare_triatt.TOLERANCE["float32"]


def op_table() -> dict[str, str]:
    from svip_search.kernels import TABLE

    return TABLE["triatt"]


@pytest.mark.parametrize("name", ours.ON_GPU)
def test_gpu_backends_are_left_out_without_a_gpu(name):
    with pytest.raises(baselines.Skipped):
        ours.ON_GPU[name](make(SMALL), NO_LIMITS)


def test_gpu_baselines_say_why_they_cannot_run():
    with pytest.raises(baselines.Skipped, match="needs half precision"):
        gpu_baselines.flash_attention(make(SMALL), NO_LIMITS)
    with pytest.raises(baselines.Skipped, match="cannot be imported"):
        gpu_baselines._load(make(CASES[2]), "no_such_package")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_rows_are_those_of_the_planner(case):
    work = make(case)
    tree, rows = work.tree, work.rows
    order, tiles, _ = plan_twin.plan(tree.parent, tree.token_ptr, work.frontier, 10**6, 10**6)
    assert rows.order.tolist() == order.tolist()
    planned = {(int(t[0]), int(t[1])): (int(t[2]), int(t[4])) for t in tiles}
    found = {(int(tree.token_ptr[node]), int(tree.token_ptr[node + 1] - tree.token_ptr[node])): (int(b), int(e))
             for node, b, e in zip(rows.nodes, rows.begin, rows.end, strict=True)}  # fmt: skip
    assert found == planned
    for path, position in zip(rows.paths(), rows.order, strict=True):
        assert rows.tokens[path].tolist() == tree.tokens(int(work.frontier[position])).tolist()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_work_is_counted_by_the_paths(case):
    work = make(case)
    paths = [work.tree.tokens(int(node)) for node in work.frontier]
    assert work.flops == 12 * case.width * sum(map(len, paths))
    size = 2 if case.dtype == "bfloat16" else 4
    assert work.bytes == len(set(np.concatenate(paths).tolist())) * 2 * case.heads * case.width * size


@pytest.mark.parametrize("nodes", [64, 256, 1024])
def test_shapes_of_the_trees(nodes):
    depth = {}
    for shape in ("beam", "mcts"):
        parent = getattr(trees, shape)(nodes, np.random.default_rng())
        assert len(parent) == nodes + 1
        level = [0]
        for up in parent[1:]:
            level.append(level[up] + 1)
        depth[shape] = np.bincount(level)
        children = np.bincount(parent[1:])
        assert set(children[1:]) <= {0, 4}
    assert depth["beam"].tolist() == [1] + [nodes // 16] * 16
    assert len(depth["mcts"]) > {64: 4, 256: 16, 1024: 48}[nodes]  # one branch is long, and
    assert depth["mcts"].max() > 4  # others exist


def test_the_same_seed_gives_the_same_workload_in_both_modes():
    full, frontier = (trees.make(trees.Case("mcts", 64, 20, 16, mode=mode)) for mode in ("full", "frontier"))
    assert torch.equal(full.tree.k, frontier.tree.k)
    assert torch.equal(full.q[-4:], frontier.q)
    assert full.frontier.tolist() == list(range(1, 65))
    assert frontier.frontier.tolist() == [61, 62, 63, 64]


def test_rounds_grow_into_the_tree():
    work = make(trees.Case("beam", 64, 20, 16, mode="frontier"))
    grown = list(trees.rounds(work))
    assert [node for young in grown for node in young.frontier] == list(range(1, 65))
    assert len(grown[-1].tree) == 65 and torch.equal(grown[-1].tree.k, work.tree.k)
    assert torch.equal(grown[-1].q, work.q)
    assert [len(young.tree.segment) for young in grown] == sorted(len(young.tree.segment) for young in grown)


@pytest.mark.parametrize(("limits", "name", "reason"), [
    (baselines.Limits(bytes=10), "dense mask", "holds 0.0 GiB, more than 0.0"),
    (baselines.Limits(flops=1e6), "dense mask", "computes .* GFLOP, more than 0"),
    (baselines.Limits(moved=10), "padded", "copies 0.0 GiB"),
    (baselines.Limits(bytes=10), "padded, gathered before", "holds"),
])  # fmt: skip
def test_baselines_that_cost_too_much_are_skipped(limits, name, reason):
    work = make(SMALL)
    with pytest.raises(baselines.Skipped, match=reason):
        baselines.BASELINES[name](work, limits)
    ready, skipped = compare_triatt.prepare(work, {name: baselines.BASELINES[name]}, limits)
    assert not ready
    assert list(skipped) == [name]


@pytest.mark.parametrize("wrong", ["scores", "att", "nan"])
def test_a_baseline_that_differs_ends_the_run(wrong):
    def liar(work, limits):
        honest = baselines.segment_loop(work, limits)

        def run():
            out = honest.run()
            if wrong == "scores":
                return out._replace(scores=out.scores + 1e-3)
            return out._replace(att=out.att * (math.nan if wrong == "nan" else 1.001))

        return honest._replace(run=run)

    with pytest.raises(compare_triatt.Mismatch, match="baseline 'liar' differs from the reference by"):
        compare_triatt.prepare(make(SMALL), {"path loop": baselines.path_loop, "liar": liar}, NO_LIMITS)


def test_a_baseline_that_differs_on_nodes_that_were_not_sampled_ends_the_run(monkeypatch):
    monkeypatch.setattr(compare_triatt, "SAMPLED", 1)
    work = make(SMALL)

    def liar(work, limits):
        honest = baselines.segment_loop(work, limits)
        out = honest.run()
        rows = torch.arange(len(out.scores))[:, None]
        lie = out._replace(scores=torch.where(rows % 2 == 0, out.scores, 1 - out.scores))
        return honest._replace(run=lambda: lie)

    with pytest.raises(compare_triatt.Mismatch, match="baseline 'liar' differs"):
        compare_triatt.prepare(work, {"path loop": baselines.path_loop, "liar": liar}, NO_LIMITS)


def test_preparing_is_given_up_in_time():
    def slow(work, limits):
        while True:
            time.sleep(0.01)

    limits = baselines.Limits(prepare_seconds=0.2)
    _, skipped = compare_triatt.prepare(make(SMALL), {"slow": slow}, limits)
    assert skipped == {"slow": "not ready after 0.2 s"}


def test_a_rival_that_fails_is_left_out_but_ours_must_not_fail():
    def broken(work, limits):
        raise RuntimeError("no kernel image\nand much more")

    ready, skipped = compare_triatt.prepare(
        make(SMALL), {"broken": broken, "path loop": baselines.path_loop}, NO_LIMITS
    )
    assert list(ready) == ["path loop"]
    assert skipped == {"broken": "RuntimeError: no kernel image"}
    with pytest.raises(RuntimeError, match="no kernel image"):
        compare_triatt.prepare(make(SMALL), {"ours": broken}, NO_LIMITS)


def test_calls_take_turns():
    calls = []

    def run(name, seconds):
        calls.append(name)
        time.sleep(seconds)

    runs = {"fast": lambda: run("fast", 0.002), "slow": lambda: run("slow", 0.21)}
    found = timing.interleave(runs, seconds=0.1, rounds=(3, 5))
    assert found["slow"]["rounds"] == 1
    assert found["fast"]["rounds"] == 5
    assert 2 <= found["fast"]["p20_ms"] <= found["fast"]["p50_ms"] <= found["fast"]["p80_ms"] < 100
    assert found["fast"]["cpu_ms"] < found["fast"]["p50_ms"]  # it sleeps
    calls.clear()
    runs = {name: lambda name=name: run(name, 0.06) for name in "ab"}
    timing.interleave(runs, seconds=0.1, rounds=(3, 5), evict=lambda: calls.append("evict"))
    assert calls[4:] == ["evict", "a", "evict", "b"] * 3


def test_ceilings_are_measured(monkeypatch):
    monkeypatch.setattr(ceilings, "TURNS", 200_000)
    monkeypatch.setattr(ceilings, "ROUNDS", 3)
    monkeypatch.setattr(ceilings, "READ_BYTES", 32 << 20)
    top = ceilings.measure(1)
    if top.fma is None:
        pytest.skip("no C++ compiler")
    assert 1 < top.fma < 1000 and 1 < top.sgemm < 1000 and 0.1 < top.read < 1000
    assert top.floor_ms(1e9, 0, "float32") == pytest.approx(1e3 / top.fma)
    assert top.floor_ms(0, 1e9, "float32") == pytest.approx(1e3 / top.read)
    assert top.floor_ms(1e9, 0, "bfloat16") <= top.floor_ms(1e9, 0, "float32")


def test_without_a_compiler_there_is_no_floor(monkeypatch):
    monkeypatch.setenv("CXX", str(HERE / "no-such-compiler"))
    top = ceilings.measure(1)
    assert (top.fma, top.read, top.floor_ms(1e9, 1e9, "float32")) == (None, None, None)
    assert top.sgemm > 0


ARGS = ["--nodes", "64", "128", "--prefix", "16", "--width", "16", "--no-flex", "--threads", "1", "--seconds", "0.01"]


def test_the_whole_run(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(ceilings, "TURNS", 200_000)
    monkeypatch.setattr(ceilings, "ROUNDS", 3)
    monkeypatch.setattr(ceilings, "READ_BYTES", 32 << 20)
    monkeypatch.setattr(timing, "RECORDS", tmp_path)
    docs = tmp_path / "kernels.md"
    docs.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n", encoding="utf-8")
    monkeypatch.setattr(report, "DOCS", docs)
    monkeypatch.setattr(report, "IMAGE", tmp_path / "images" / "roofline.svg")
    monkeypatch.setattr(report, "HEADLINE", report.HEADLINE | {"prefix": 16, "width": 16})
    names = ["padded", "path loop", "segment loop"]
    compare_triatt.main([*ARGS, "--record", "small", "--baselines", *names])
    record = json.loads((tmp_path / "small.json").read_text(encoding="utf-8"))
    cases = record["figures"]["cases"]
    assert [(case["nodes"], case["mode"]) for case in cases] == [
        (n, m) for n in (64, 128) for m in ("full", "frontier")
    ]
    for case in cases:
        assert set(names) <= set(case["results"])
        figures = case["results"]["path loop"]
        assert figures["gflops"] == pytest.approx(case["gflop"] * 1e3 / figures["p50_ms"], rel=0.05)
    text = docs.read_text(encoding="utf-8")
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "| path loop |" in text
    assert "N = 64 | N = 128" in text
    assert "path loop" in capsys.readouterr().out


def test_options_name_what_is_wrong():
    with pytest.raises(ValueError, match=r"`--baselines` must be among padded, .*; got nothing-like-it"):
        compare_triatt.rivals_of(compare_triatt.parse(["--baselines", "nothing-like-it"]))


def test_choices_make_the_cases():
    cases_of, parse = compare_triatt.cases_of, compare_triatt.parse
    chosen = cases_of(parse(["--nodes", "64", "256", "--heads", "1", "--modes", "full"]))
    assert chosen == [(trees.Case(nodes=n, heads=1), True) for n in (64, 256)]
    assert {case.nodes for case, _ in cases_of(parse(["--quick"]))} == {256}
    everything = [case for case, _ in cases_of(parse([]))]
    assert {case.prefix for case in everything} == {256, 512, 1280}
    assert {case.shape for case in everything} == {"beam", "mcts"}
    assert len(set(everything)) == len(everything)


def entry(nodes, ms, **changes):
    """Return a case of the headline in which ours takes ``ms`` and a loop ten times as long."""
    mine = {"p50_ms": ms, "cpu_ms": 2 * ms, "gflops": 1.0, "of_floor": 0.5, "times": 1.0, "times_cpu": 1.0}
    rival = mine | {"p50_ms": 10 * ms, "times": 10.0, "times_cpu": 9.0}
    results = {"ours": mine, "ours, bfloat16 products": mine | {"cpu_ms": ms}, "segment loop": rival}
    facts = {"nodes": nodes, "mode": "full", "threads": 1, "cold": False, "gflop": nodes / 100, "mbyte": 1.0}
    return report.HEADLINE | facts | {"floor_ms": ms / 2, "results": results, "skipped": {}} | changes


def test_slopes_and_aims():
    cases = [entry(64, 1.0), entry(256, 8.0), entry(256, 4.0, dtype="bfloat16")]
    (slope,) = report.slopes(cases)
    assert slope["powers"]["work"] == 1.0
    assert slope["powers"]["ours"] == slope["powers"]["segment loop"] == 1.5
    found = {aim["what"]: (aim["aim"], aim["measured"], aim["cpu"]) for aim in report.aims(cases)}
    assert found == {
        "times faster than segment loop": (6, 10.0, 9.0),
        "share of the floor": (0.8, 0.5, 0.25),
        "times faster with bfloat16 products": (1.6, 2.0, 4.0),
    }


def test_documentation_without_markers_is_left_alone(tmp_path, monkeypatch, capsys):
    docs = tmp_path / "kernels.md"
    docs.write_text("no markers", encoding="utf-8")
    figures = {"ceilings": [], "cases": [], "growth": [], "slopes": [], "aims": []}
    path = tmp_path / "record.json"
    path.write_text(json.dumps({"figures": figures}), encoding="utf-8")
    monkeypatch.setattr(report, "DOCS", docs)
    monkeypatch.setattr(report, "plot", lambda *_: False)
    report.publish(path)
    assert docs.read_text(encoding="utf-8") == "no markers"
    assert "no table written" in capsys.readouterr().out


def test_the_roofline_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    top = {"device": "cpu", "threads": 1, "fma": 100.0, "read": 30.0}
    record = {"figures": {"ceilings": [top], "cases": [entry(64, 1.0), entry(256, 8.0)]}}
    path = tmp_path / "images" / "roofline.svg"
    assert report.plot(record, path)
    first = path.read_text(encoding="utf-8")
    assert first.startswith("<?xml") and "GFLOP/s" in first
    report.plot(record, path)
    assert path.read_text(encoding="utf-8") == first
