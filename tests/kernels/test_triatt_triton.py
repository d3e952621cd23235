"""The Triton backend: its numbers, in the interpreter or on a GPU, and the machine code it compiles to.

Without a GPU the numbers run in a process of their own, because Triton chooses between compiling and
interpreting when a kernel is defined.  Machine code needs no GPU: the arguments of real launches are
recorded and compiled for three architectures.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the Triton backend takes torch tensors")
triton = pytest.importorskip("triton", reason="Triton is not installed")

from svip_search._errors import BackendUnavailable  # noqa: E402
from svip_search.kernels._dispatch import Facts  # noqa: E402
from svip_search.kernels.triatt import (  # noqa: E402
    IMAGE,
    QUESTION,
    STEP,
    Head,
    KVTree,
    State,
    triatt,
    triatt_scan,
)
from svip_search.kernels.triatt import triton_kernel as backend  # noqa: E402
from svip_search.kernels.triatt._work import make_scan_work, make_work  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent))
from test_triatt import dense, make_head, relative  # noqa: E402

sys.path.pop(0)

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
HAS_GPU = torch.cuda.is_available()
DEVICE = "cpu" if INTERPRETED else "cuda"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
#: Local memory that is no spill to speak of: ptxas parks two registers where that lets one more block run.
PARKED = 8
MOST = {"float32": 1e-6, "bfloat16": 5e-4, "float16": 5e-4}  # relative error against the rounded inputs


SHAPES = {
    "single": [-1],
    "chain": [-1, 0, 1, 2, 3],
    "star": [-1] + [0] * 5,
    "beam": [-1, 0, 0, 0, 1, 1, 2, 2],
    "forest": [-1, -1, 0, 1],
    "bush": [-1, 0, 0, 1, 1, 2, 3, 3, 0, 8, 8, 8, 9, 9, 10, 11, 14, 14],  # two blocks of rows
}


def make_tree(shape="star", heads=3, d=16, dtype="float32", prefix=17, scale=1.0, parent=None):
    """Return a tree on the device and its float64 copy, equal after the rounding of keys and values."""
    rng = np.random.default_rng()
    parent = SHAPES[shape] if parent is None else parent
    lengths = np.where(np.array(parent) < 0, prefix, rng.integers(0, 7, len(parent)))
    ptr = np.concatenate([[0], np.cumsum(lengths)])
    segment = np.where(rng.random(ptr[-1]) < 0.9, STEP, IMAGE)  # some steps bring images along
    segment[:prefix] = rng.choice([QUESTION, IMAGE], prefix)
    k, v = (
        torch.tensor(rng.standard_normal((ptr[-1], heads, d)) * s, dtype=DTYPES[dtype], device=DEVICE)
        for s in (scale, 1)
    )
    twin = KVTree(parent, ptr, segment, *(a.double().cpu().numpy() for a in (k, v)))
    return KVTree(parent, ptr, segment, k, v), twin


def version(package):
    return tuple(map(int, package.__version__.split(".")[:2]))


def tensor(x):
    return x if x is None else torch.tensor(np.asarray(x), dtype=torch.float32, device=DEVICE)


def tensors(head):
    return Head(*map(tensor, head))


def numpy(x):
    return x.cpu().numpy()


def normal(*shape):
    return np.random.standard_normal(shape).astype(np.float32)


def check(out, scores, att, most=1e-6):
    assert out.scores.dtype == out.att.dtype == torch.float32
    assert relative(numpy(out.att), att) < most
    assert np.abs(numpy(out.scores) - scores).max() < most


@pytest.mark.skipif(not (INTERPRETED or HAS_GPU), reason="needs a GPU; test_in_the_interpreter runs it without")
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter computes masked places aloud
class TestNumbers:
    @pytest.fixture(autouse=True)
    def poison(self, monkeypatch):
        """Fill every buffer with NaN before a call, so that what is not written shows."""
        allocate = backend.allocate

        def poisoned(*args, **kwargs):
            buffers = allocate(*args, **kwargs)
            for a in [*buffers[:5], *(buffers.state or ())]:
                if a is not None:
                    a.fill_(float("nan"))
            return buffers

        monkeypatch.setattr(backend, "allocate", poisoned)

    @pytest.mark.parametrize("heads", [1, 3])
    @pytest.mark.parametrize(("shape", "kind", "d", "prefix"), [
        ("single", "linear", 16, 1), ("chain", "mlp", 24, 15), ("star", "linear", 32, 16),
        ("beam", "mlp", 16, 17), ("forest", "linear", 5, 65), ("bush", "linear", 16, 17),
    ])  # fmt: skip
    def test_equals_the_definition(self, shape, kind, d, prefix, heads):
        tree, twin = make_tree(shape, heads, d, prefix=prefix)
        frontier = np.random.permutation(len(tree))
        q, head, bias = normal(len(tree), 3, d), make_head(kind, d, np.float32), normal(3, 4)
        out = triatt(tree, frontier, tensor(q), tensors(head), bias=tensor(bias), return_att=True, backend="triton")
        check(out, *dense(twin, frontier, q, head, bias))

    @pytest.mark.parametrize("heads", [1, 3])
    @pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
    def test_half_precision(self, dtype, heads):
        tree, twin = make_tree(heads=heads, dtype=dtype, parent=[-1, 0, 0])
        q, head = normal(len(tree), 3, 16) * 100, make_head("mlp", 16, np.float32)
        for queries, scale in ((tensor(q), 0.01), (tensor(q).to(DTYPES[dtype]), 0.01)):
            small = tensors(head)
            out = triatt(tree, range(len(tree)), queries * scale, small, return_att=True, backend="triton")
            exact = numpy((queries * scale).double())
            check(out, *dense(twin, range(len(tree)), exact, head), MOST[dtype])

    def test_half_precision_takes_queries_of_any_size(self):
        tree, twin = make_tree("chain", 3, 16, "float16", scale=1e-3)
        q, head = normal(len(tree), 3, 16) * 1e6, make_head("linear", 16, np.float32)
        out = triatt(tree, [0, 3, 4], tensor(q[:3] * 1e-3), tensors(head), return_att=True, backend="triton")
        check(out, *dense(twin, [0, 3, 4], q[:3] * 1e-3, head), 5e-4)
        tree, twin = make_tree("chain", 3, 16, "float16", scale=1e-5)
        out = triatt(tree, [0, 3, 4], tensor(q[:3]), tensors(head), return_att=True, backend="triton")
        check(out, *dense(twin, [0, 3, 4], q[:3], head), 5e-4)

    @pytest.mark.parametrize(("heads", "bias"), [
        (1, np.full((3, 4), 1e4)), (3, np.full((3, 4), -1e4)),
        (1, [[1e4, -1e4, 0, 0], [0, 0, -1e4, 0], [0, 0, 1e4, -1e4]]), (3, [[0, 0, -1e4, 0]] * 3),
        (1, [[0, -np.inf, 0, 0]] * 3),
    ], ids=["high", "low", "mixed", "this-step", "no-images"])  # fmt: skip
    def test_large_biases_cost_no_accuracy(self, heads, bias):
        tree, twin = make_tree(heads=heads, prefix=20, parent=[-1, 0, 1])
        tree.segment[0] = twin.segment[0] = QUESTION  # so that not everything can be forbidden
        bias = (np.array(bias) + normal(3, 4)).astype(np.float32)
        q, head = normal(len(tree), 3, 16), make_head("linear", 16, np.float32)
        args = tensors(head)
        out = triatt(tree, range(len(tree)), tensor(q), args, bias=tensor(bias), return_att=True, backend="triton")
        check(out, *dense(twin, range(len(tree)), q, head, bias))
        scan = triatt_scan(tree, tensor(q[0]), args, bias=tensor(bias), return_att=True, backend="triton")
        check(scan, *dense(twin, range(len(tree)), q[0], head, bias))

    @pytest.mark.parametrize("heads", [1, 3])
    def test_huge_logits(self, heads):
        tree, twin = make_tree("chain", heads, scale=100)
        q, head = normal(len(tree), 3, 16), make_head("linear", 16, np.float32)
        out = triatt(tree, range(len(tree)), tensor(q), tensors(head), return_att=True, backend="triton")
        check(out, *dense(twin, range(len(tree)), q, head), 1e-4)  # the logits themselves are rounded

    @pytest.mark.parametrize("heads", [1, 3])
    def test_a_long_prefix_is_split_and_merged(self, heads):
        tree, twin = make_tree(heads=heads, prefix=290, parent=[-1, 0, 0])
        block, tile = backend.block_and_tile(2, tree.k)
        work = make_work(tree, np.array([2, 1]), block, tile, 8, "cpu")
        assert work.slots.tolist()[-1] >= 2
        q, head = normal(2, 3, 16), make_head("linear", 16, np.float32)
        out = triatt(tree, [2, 1], tensor(q), tensors(head), return_att=True, backend="triton")
        check(out, *dense(twin, [2, 1], q, head))

    def test_repeats_and_a_constant_query(self):
        tree, twin = make_tree("chain")
        q, head, frontier = normal(3, 16), make_head("mlp", 16, np.float32), [4, 4, 0, 3, 4]
        out = triatt(tree, frontier, tensor(q), tensors(head), return_att=True, backend="triton")
        check(out, *dense(twin, frontier, q, head))
        assert torch.equal(out.scores[0], out.scores[1]) and torch.equal(out.scores[0], out.scores[4])

    def test_an_empty_frontier(self):
        tree, _ = make_tree("chain")
        out = triatt(tree, [], tensor(normal(0, 3, 16)), tensors(make_head("mlp", 16)), return_att=True,
                     return_state=True, backend="triton")  # fmt: skip
        assert tuple(out.scores.shape) == (0, 3) and tuple(out.att.shape) == (0, 3, 16)
        assert [tuple(a.shape) for a in out.state] == [(0, 3), (0, 3), (0, 3, 16)]

    def test_arrays_need_not_be_dense(self):
        tree, twin = make_tree(parent=[-1, 0, 0])
        both = torch.stack([tree.k, tree.v], 1)  # as one projection would leave them
        tree = KVTree(tree.parent, tree.token_ptr, tree.segment, both[:, 0], both[:, 1])
        assert not tree.k.is_contiguous()
        q, head = normal(len(tree), 3, 16), make_head("linear", 16, np.float32)
        spread = tensor(np.repeat(q, 2, 2))[..., ::2]
        out = triatt(tree, range(len(tree)), spread, tensors(head), return_att=True, backend="triton")
        check(out, *dense(twin, range(len(tree)), q, head))
        scan = triatt_scan(tree, spread[0], tensors(head), return_att=True, backend="triton")
        check(scan, *dense(twin, range(len(tree)), q[0], head))

    def test_the_state_gives_the_attention_output(self):
        tree, _ = make_tree("star")
        q, head, bias = tensor(normal(3, 16)), tensors(make_head("linear", 16)), tensor(normal(3, 4))
        out = triatt(tree, [3, 0, 5], q, head, bias=bias, return_att=True, return_state=True, backend="triton")
        ref = triatt(tree, [3, 0, 5], q, head, bias=bias, return_state=True, backend="reference")
        torch.testing.assert_close(out.state.o / out.state.l[..., None], out.att)
        torch.testing.assert_close(out.state, ref.state, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize(
        ("heads", "name", "scan"), [(1, "k", False), (3, "v", False), (1, "v", True), (3, "k", True)]
    )
    def test_nan_reaches_the_descendants_of_its_token_only(self, heads, name, scan):
        tree, _ = make_tree(heads=heads, d=16, parent=[-1, 0, 0, 1])
        if tree.token_ptr[1] == tree.token_ptr[2]:  # node 1 must own a token
            ptr = tree.token_ptr.copy()
            ptr[1] -= 1
            tree = KVTree(tree.parent, ptr, tree.segment, tree.k, tree.v)
        q, head, bias = tensor(normal(3, 16)), tensors(make_head("linear", 16)), tensor(normal(3, 4))

        def scores(tree):
            if scan:
                return triatt_scan(tree, q, head, bias=bias, backend="triton").scores
            return triatt(tree, range(4), q, head, bias=bias, backend="triton").scores

        clean = scores(tree)
        getattr(tree, name)[tree.token_ptr[1], heads // 2, 3] = float("nan")
        dirty = scores(tree)
        hit = torch.zeros(4, 3, dtype=torch.bool, device=DEVICE)
        hit[[1, 3]] = torch.tensor([heads == 1, True, heads == 1], device=DEVICE)
        assert torch.equal(dirty.isnan(), hit)
        assert torch.equal(dirty[~hit], clean[~hit])

    def test_nan_in_a_query_stays_in_its_row(self):
        tree, _ = make_tree("star", 1, dtype="bfloat16")
        q, head = tensor(normal(len(tree), 3, 16)), tensors(make_head("mlp", 16))
        clean = triatt(tree, range(len(tree)), q, head, backend="triton").scores
        q[2, 1, 0] = float("nan")
        dirty = triatt(tree, range(len(tree)), q, head, backend="triton").scores
        assert dirty.isnan().nonzero().tolist() == [[2, 1]]
        assert torch.equal(dirty[~dirty.isnan()], clean[~dirty.isnan()])

    @pytest.mark.parametrize(("shape", "kind", "heads", "dtype"), [
        ("single", "linear", 1, "float32"), ("chain", "mlp", 3, "float32"), ("forest", "linear", 1, "float32"),
        ("star", "mlp", 1, "bfloat16"),
    ])  # fmt: skip
    def test_scan_equals_the_definition(self, shape, kind, heads, dtype):
        tree, twin = make_tree(shape, heads, 24, dtype, prefix=66)
        q, head, bias = normal(3, 24), make_head(kind, 24, np.float32), normal(3, 4) * 5
        out = triatt_scan(tree, tensor(q), tensors(head), bias=tensor(bias), return_att=True, backend="triton")
        check(out, *dense(twin, range(len(tree)), q, head, bias), 2e-6)

    @pytest.mark.parametrize("offset", [0, 1e4])
    def test_scan_continues_from_states(self, offset):
        """A forest of new nodes under old ones, one of them without tokens and one without steps."""
        tree, twin = make_tree(heads=3, prefix=20, parent=[-1, 0, 0, 1, 2, 3, 4])
        tree.segment[tree.token_ptr[6] :] = twin.segment[tree.token_ptr[6] :] = IMAGE
        q, head, bias = normal(3, 16), make_head("linear", 16, np.float32), normal(3, 4) + np.float32(offset)
        args = {"bias": tensor(bias), "return_att": True, "backend": "triton"}
        cut = tree.token_ptr[3]
        old = KVTree([-1, 0, 0], tree.token_ptr[:4], tree.segment[:cut], tree.k[:cut], tree.v[:cut])
        new = KVTree([-1, -1, 0, 1], tree.token_ptr[3:] - cut, tree.segment[cut:], tree.k[cut:], tree.v[cut:])
        state = triatt_scan(old, tensor(q), tensors(head), **args).state
        out = triatt_scan(new, tensor(q), tensors(head), state=State(*(a[[1, 2]] for a in state)), **args)
        check(out, *dense(twin, [3, 4, 5, 6], q, head, bias), 2e-6)
        whole = triatt_scan(tree, tensor(q), tensors(head), **{**args, "backend": "reference"})
        for name, a, b in zip("mlo", out.state, whole.state, strict=True):
            # Under a large bias m is rounded to 1e-3, several times on a path, and l and o take that as a factor.
            multiple = offset and name != "m"
            rtol, atol = (4e-3, 4e-3) if multiple else (1e-5, 2e-3 if offset else 1e-5)
            torch.testing.assert_close(a, b[3:], rtol=rtol, atol=atol)

    def test_scan_of_nodes_without_tokens_passes_their_states_on(self):
        kv = torch.zeros((0, 1, 16), device=DEVICE)
        state = State(tensor(normal(2, 3)), tensor(normal(2, 3) ** 2 + 1), tensor(normal(2, 3, 16)))
        tree = KVTree([-1, -1, 1], [0, 0, 0, 0], [], kv, kv)
        out = triatt_scan(tree, tensor(normal(3, 16)), tensors(make_head("linear", 16)), state=state, backend="triton")
        for a, b in zip(out.state, state, strict=True):
            torch.testing.assert_close(a, b[[0, 1, 1]])

    @pytest.mark.parametrize("scan", [False, True])
    def test_a_work_list_serves_new_numbers(self, scan):
        """What a CUDA graph replays: the same launches on the same tensors with other contents."""
        tree, twin = make_tree(parent=[-1, 0, 0])
        n, head = len(tree), make_head("linear", 16, np.float32)
        numbers, q = tensors(head), tensor(np.zeros((3, 16) if scan else (n, 3, 16)))
        if scan:
            work = make_scan_work(tree, backend.scan_tile(tree.k), DEVICE)
            launch = lambda: backend.launch_scan(work, tree.k, tree.v, q, numbers, None, None, buffers)  # noqa: E731
        else:
            work = make_work(tree, np.arange(n), *backend.block_and_tile(n, tree.k), 8, DEVICE)
            launch = lambda: backend.launch(work, tree.k, tree.v, q, numbers, None, buffers)  # noqa: E731
        buffers = backend.allocate(work, tree.k, att=True, state=True)
        launch()
        replay = launch
        if DEVICE == "cuda":
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                launch()
            replay = graph.replay
        fresh = normal(*q.shape)
        q.copy_(tensor(fresh))
        replay()
        check(buffers, *dense(twin, range(n), fresh, head))


@pytest.mark.skipif(INTERPRETED or not HAS_GPU, reason="needs a GPU")
@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("dtype", DTYPES)
def test_at_size(dtype, heads):
    parent = [-1] + [max(0, i - int(np.random.randint(1, 40))) for i in range(299)]
    for d in (64, 100, 128, 256):
        tree, twin = make_tree(heads=heads, d=d, dtype=dtype, prefix=1280, parent=parent)
        q, head, bias = normal(300, 3, d), make_head("mlp", d, np.float32), normal(3, 4)
        args = {"bias": tensor(bias), "return_att": True, "backend": "triton"}
        out = triatt(tree, range(300), tensor(q), tensors(head), **args)
        check(out, *dense(twin, range(300), q, head, bias), MOST[dtype])
        scan = triatt_scan(tree, tensor(q[0]), tensors(head), **args)
        check(scan, *dense(twin, range(300), q[0], head, bias), 2e-6)


@pytest.mark.skipif(INTERPRETED, reason="this is the interpreter")
@pytest.mark.skipif(version(triton) < (3, 7) and version(np) >= (2, 4), reason="Triton 3.6 interprets below numpy 2.4")
def test_in_the_interpreter():
    command = [sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", f"{__file__}::TestNumbers"]
    env = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= 40 and "skipped" not in done.stdout


class Recorder:
    """Stands in for a kernel and keeps what it was launched with."""

    def __init__(self, kernel, calls):
        self.kernel, self.calls = kernel, calls

    def __getitem__(self, grid):
        return lambda *args, **kwargs: self.calls.append((self.kernel, args, kwargs))


def record(monkeypatch, dtype, heads, d):
    """Return the launches of a call and of a scan, with everything that can be asked for."""
    calls = []
    for name in ("_attend", "_merge", "_mlp", "_scan_tiles", "_scan_merge"):
        monkeypatch.setattr(backend, name, Recorder(getattr(backend, name), calls))
    monkeypatch.setattr(sys.modules[__name__], "DEVICE", "cpu")
    tree, _ = make_tree("bush", heads, d, dtype)
    q, head, bias = tensor(normal(len(tree), 3, d)), tensors(make_head("linear", d)), tensor(normal(3, 4))
    backend.triatt(tree, np.arange(len(tree)), q, head, bias, True, True)
    state = State(*(torch.ones(s) for s in ((1, 3), (1, 3), (1, 3, d))))
    backend.triatt_scan(tree, q[0], tensors(make_head("mlp", d)), bias, state, True)
    return {kernel.__name__: (kernel, args, kwargs) for kernel, args, kwargs in calls}


def build(kernel, args, kwargs, capability):
    """Return what Triton compiles for these arguments, as its own launcher would specialise it."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    values = {**dict(zip(kernel.arg_names, args, strict=False)), **kwargs}
    options = {name: values.pop(name) for name in ("num_warps", "num_stages", "enable_fp_fusion") if name in values}
    names = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16", "int32": "i32", "uint8": "u8"}
    signature, constants, attrs = {}, {}, {}
    for i, parameter in enumerate(kernel.params):
        value = values[parameter.name]
        if parameter.is_constexpr:
            signature[parameter.name], constants[parameter.name] = "constexpr", value
            continue
        if isinstance(value, torch.Tensor):
            signature[parameter.name] = "*" + names[str(value.dtype).removeprefix("torch.")]
        else:
            signature[parameter.name] = "fp32" if isinstance(value, float) else "i32"
        whole = isinstance(value, torch.Tensor) or (isinstance(value, int) and value % 16 == 0)
        if whole and not parameter.do_not_specialize:
            attrs[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, attrs)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def stack_bytes(compiled, tmp_path):
    """Return the local memory of a kernel: what does not fit into registers is spilled there."""
    file = tmp_path / "kernel.cubin"
    file.write_bytes(compiled.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    out = subprocess.run([tool, "-res-usage", file], capture_output=True, text=True, check=True)
    return int(re.search(r"STACK:(\d+)", out.stdout + out.stderr)[1])


@pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing")
@pytest.mark.skipif(not (Path(triton.__file__).parent / "backends/nvidia/bin/ptxas").exists(),
                    reason="this Triton has no compiler for NVIDIA GPUs")  # fmt: skip
class TestMachineCode:
    @pytest.fixture(autouse=True)
    def cache(self, tmp_path, monkeypatch):
        monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))

    @pytest.mark.parametrize("capability", [80, 90, 100])
    @pytest.mark.parametrize(("dtype", "heads", "d"), [
        ("float32", 3, 128), ("bfloat16", 1, 128), ("float16", 3, 64),
    ])  # fmt: skip
    def test_attention(self, dtype, heads, d, capability, monkeypatch, tmp_path):
        compiled = build(*record(monkeypatch, dtype, heads, d)["_attend"], capability)
        ptx = compiled.asm["ptx"]
        assert "tf32" not in ptx
        assert (re.search(r"mma\.sync|wgmma|tcgen05\.mma", ptx) is not None) == (dtype != "float32")
        assert re.search(r"cp\.async\.cg\.shared\.global .*, 0x10", ptx), "keys and values are not read in 16 bytes"
        assert stack_bytes(compiled, tmp_path) <= PARKED
        assert compiled.metadata.shared <= 99 * 1024  # what the smallest of these GPUs gives a block

    @pytest.mark.parametrize(("capability", "d"), [(80, 128), (90, 256), (100, 64)])
    def test_the_rest(self, capability, d, monkeypatch, tmp_path):
        for name, call in record(monkeypatch, "bfloat16", 1, d).items():
            if name != "_attend":
                compiled = build(*call, capability)
                assert re.search(r"ld\.global(\.\w+)*\.v4|cp\.async\.cg", compiled.asm["ptx"]), name
                assert "tf32" not in compiled.asm["ptx"], name
                assert stack_bytes(compiled, tmp_path) <= PARKED, name


FACTS = {"device": "cuda", "dtype": "bfloat16", "library": "torch"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"library": "numpy"}, "takes torch tensors"),
        ({"grad": True}, "no gradients"),
        ({"dtype": "float64", "precision": "float64"}, "computes in float32 .*; got float64"),
        ({"precision": "float64"}, "computes in float32 .*; got bfloat16, float64"),
        ({"width": 257}, "width must be at most 256; got 257"),
    ],
)
def test_refusals_say_why(change, reason):
    assert re.search(reason, backend.supports(Facts(**{**FACTS, **change})))


@pytest.mark.skipif(INTERPRETED, reason="the interpreter takes any device")
def test_a_missing_gpu_is_a_reason_and_not_a_crash():
    assert "on the cpu" in backend.supports(Facts(**{**FACTS, "device": "cpu"}))
    if not HAS_GPU:
        assert backend.supports(Facts(**FACTS)).startswith("Triton finds no GPU: ")
    kv = torch.ones(2, 1, 16)
    call = KVTree([-1], [0, 2], [0, 2], kv, kv), [0], torch.ones(3, 16), Head(torch.ones(3, 16), torch.zeros(3))
    with pytest.raises(BackendUnavailable, match=r"`backend` 'triton' cannot run triatt: .*on the cpu"):
        triatt(*call, backend="triton")


def test_an_old_triton_is_a_reason(monkeypatch):
    monkeypatch.setattr(triton, "__version__", "3.5.1")
    assert "3.6 or newer; got 3.5.1" in backend.supports(Facts(**FACTS))


def test_launch_names_what_is_not_dense():
    kv, head = torch.ones(4, 1, 32), Head(torch.ones(3, 16), torch.zeros(3))
    tree = KVTree([-1], [0, 4], [0] * 4, kv[..., :16], kv[..., :16])
    work = make_work(tree, np.arange(1), 5, 32, 8, "cpu")
    buffers = backend.allocate(work, tree.k, att=False, state=False)
    q = torch.ones(3, 16)
    with pytest.raises(ValueError, match="`v` must be contiguous in its last dimension"):
        backend.launch(work, tree.k, kv[..., ::2], q, head, None, buffers)
    with pytest.raises(ValueError, match="`q` must be contiguous"):
        backend.launch(work, tree.k, tree.v, torch.ones(16, 3).T, head, None, buffers)
    deep = Head(torch.ones(3, 5), torch.zeros(3), torch.ones(3, 5, 16), torch.ones(3, 5))
    with pytest.raises(ValueError, match=r"`buffers.att` must be given for a head of two layers"):
        backend.launch(work, tree.k, tree.v, q, deep, None, buffers)


def test_kernels_are_imported_without_torch_and_triton():
    code = "import sys, svip_search.kernels.triatt as t; assert not {'torch', 'triton'} & set(sys.modules); t.triatt"
    subprocess.run([sys.executable, "-c", code], check=True)
