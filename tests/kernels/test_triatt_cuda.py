"""The CUDA backend: its kernels' own source in an emulator of the GPU's threads, and what the compiler made of it.

Where there is a GPU, the same comparisons run on it too.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from svip_search._errors import BackendUnavailable
from svip_search.kernels._dispatch import Facts
from svip_search.kernels.triatt import IMAGE, QUESTION, STEP, Head, KVTree, State, reference

ROOT = Path(__file__).resolve().parents[2]
CSRC = ROOT / "csrc"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SHAPES = ("single", "chain", "star", "beam", "recursive")
# Relative error of the attention outputs against float64 on the same (rounded) keys and values.
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 5e-4, torch.float16: 5e-4}


def build(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stderr


def load(library: Path):
    """Return the backend over another library, under another name, so that no dispatcher finds it."""
    path = Path(reference.__file__).with_name("cuda.py")
    spec = importlib.util.spec_from_file_location(f"svip_search.kernels.triatt.{library.stem}", path)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SVIP_TRIATT_CUDA", str(library))
        spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def emulated(tmp_path_factory):
    compiler = shutil.which("g++")
    if compiler is None or sys.platform != "linux":
        pytest.skip("the emulator needs g++ and Linux")
    library = tmp_path_factory.mktemp("emulator") / "emulated_cuda.so"
    build(
        [
            *(compiler, "-std=c++17", "-O2", "-U_FORTIFY_SOURCE", "-shared", "-fPIC", "-Wall", "-Wextra"),
            *("-Wno-unknown-pragmas", f'-DSVIP_CUDA_EMULATOR="{ROOT}/tests/cpp/cuda_emulator.h"'),
            *(f"-I{CSRC}/include", "-o", str(library), "-x", "c++", f"{CSRC}/cuda/triatt.cu"),
        ]
    )
    return load(library)


@pytest.fixture(params=["emulated", "gpu"] if torch.cuda.is_available() else ["emulated"])
def cuda(request):
    """The backend, over emulated threads and, where there is a GPU, over real ones."""
    if request.param == "emulated":
        module = request.getfixturevalue("emulated")
        module.device = torch.device("cpu")
        module._library.svip_emulator_seed(int(np.random.randint(6)))
        return module
    module = pytest.importorskip("svip_search.kernels.triatt.cuda", exc_type=ImportError)
    module.device = torch.device("cuda")
    return module


def make_parent(shape: str, rng) -> list[int]:
    if shape == "single":
        return [-1]
    if shape == "chain":
        return list(range(-1, 6))
    if shape == "star":
        return [-1] + [0] * 19  # more rows than a block has
    if shape == "beam":
        return [-1, 0, 0, 0, 1, 1, 1, 3, 3, 3, 5, 5, 5]
    return [-1] + [int(rng.integers(-1, n)) for n in range(1, 14)]


def guarded(array: np.ndarray, dtype, device) -> torch.Tensor:
    """Return the array on the device with NaN before and after it in memory."""
    around = torch.full((array.size + 128,), torch.nan, dtype=dtype)
    around[64:-64] = torch.from_numpy(array.reshape(-1)).to(dtype)
    return around.to(device)[64:-64].view(array.shape)


def make_tree(shape="recursive", heads=3, d=32, dtype=torch.float32, device="cpu", prefix=None, steps=(1, 20), v=1.0):
    rng = np.random.default_rng(np.random.randint(2**32))
    parent = make_parent(shape, rng)
    lengths = rng.integers(*steps, len(parent))
    if prefix is not None:
        lengths[0] = prefix
    ptr = np.concatenate([[0], np.cumsum(lengths)])
    segment = np.full(ptr[-1], STEP)
    segment[: ptr[1]] = rng.choice([QUESTION, IMAGE, STEP], ptr[1])
    k, values = rng.standard_normal((2, ptr[-1], heads, d))
    return KVTree(parent, ptr, segment, guarded(k, dtype, device), guarded(values * v, dtype, device))


def make_head(kind: str, d: int, device="cpu", hidden=5) -> Head:
    shapes = ((3, d), (3,)) if kind == "linear" else ((3, hidden), (3,), (3, hidden, d), (3, hidden))
    return Head(*(torch.randn(shape, device=device) for shape in shapes))


def queries(*shape: int, device="cpu") -> torch.Tensor:
    return guarded(np.random.standard_normal(shape), torch.float32, device)


def exact(x):
    """Return the same in float64 on the CPU."""
    if isinstance(x, KVTree):
        return KVTree(x.parent, x.token_ptr, x.segment, exact(x.k), exact(x.v))
    if isinstance(x, Head | State):
        return type(x)(*(None if a is None else exact(a) for a in x))
    return x.double().cpu()


def relative(out, ref) -> float:
    out, ref = out.double().cpu(), ref.double()
    return float((torch.linalg.norm(out - ref, dim=(0, 2)) / torch.linalg.norm(ref, dim=(0, 2))).max())


def compare(cuda, tree, frontier, q, head, bias=None, tolerance=None):
    """Run a frontier, compare everything that comes out with the reference in float64, and return it."""
    frontier = np.asarray(frontier, np.int64)
    ref_bias = None if bias is None else exact(bias)
    out = cuda.triatt(tree, frontier, q, head, bias, True, True)
    ref = reference.triatt(exact(tree), frontier, exact(q), exact(head), ref_bias, True, True)
    check(out, ref, TOLERANCE[tree.k.dtype] if tolerance is None else tolerance)
    return out


def check(out, ref, tolerance):
    assert relative(out.att, ref.att) < tolerance
    assert (out.scores.double().cpu() - ref.scores).abs().max() < max(tolerance, 2e-6) * 2
    # m may be any number, as long as l and o go with it.
    shift = torch.exp(out.state.m.double().cpu() - ref.state.m)
    assert relative(out.state.o.cpu() * shift[..., None], ref.state.o) < max(tolerance, 1e-5)
    torch.testing.assert_close(out.state.l.double().cpu() * shift, ref.state.l, rtol=max(tolerance, 1e-5), atol=0)


@pytest.fixture(autouse=True)
def poisoned(monkeypatch):
    """Fresh buffers hold NaN, so that nothing is right by luck."""
    empty = torch.empty

    def poison(*args, **kwargs):
        out = empty(*args, **kwargs)
        return out.fill_(torch.nan) if out.dtype.is_floating_point else out

    monkeypatch.setattr(torch, "empty", poison)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_reference(cuda, shape, heads, dtype):
    tree = make_tree(shape, heads, 32, dtype, cuda.device)
    kind = "linear" if heads == 1 else "mlp"
    q, bias = queries(len(tree), 3, 32, device=cuda.device), torch.randn(3, 4, device=cuda.device)
    compare(cuda, tree, range(len(tree)), q, make_head(kind, 32, cuda.device), bias)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("d", [4, 16, 40, 64, 96, 100, 128, 256])
def test_widths(cuda, d, heads, dtype):
    tree = make_tree("beam", heads, d, dtype, cuda.device, prefix=40)
    q, kind = queries(4, 3, d, device=cuda.device), "mlp" if d == 100 else "linear"
    compare(cuda, tree, [12, 0, 3, 8], q, make_head(kind, d, cuda.device))


@pytest.mark.parametrize("prefix", [1, 15, 16, 17, 63, 64, 65, 200, 700])
def test_prefixes_and_splits(cuda, prefix, monkeypatch):
    monkeypatch.setattr(cuda._work, "wanted_programs", lambda k: 1 + prefix % 7)
    tree = make_tree("star", 3, 32, torch.bfloat16, cuda.device, prefix=prefix)
    q = queries(len(tree), 3, 32, device=cuda.device)
    compare(
        cuda, tree, range(len(tree)), q, make_head("linear", 32, cuda.device), torch.randn(3, 4, device=cuda.device)
    )


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("heads", "dtype"), [(1, torch.bfloat16), (3, torch.bfloat16), (1, torch.float32)])
def test_no_order_of_threads_and_copies_matters(emulated, seed, heads, dtype):
    """All six of the emulator, on one tree each, give the same to the last bit."""
    emulated.device = torch.device("cpu")
    np.random.seed(7)
    tree = make_tree("beam", heads, 64, dtype, prefix=150)
    q, head = queries(len(tree), 3, 64), Head(torch.ones(3, 64), torch.zeros(3))
    outs = []
    for number in (0, seed):
        emulated._library.svip_emulator_seed(number)
        outs.append(compare(emulated, tree, range(len(tree)), q, head))
    assert torch.equal(outs[0].att, outs[1].att)
    assert torch.equal(outs[0].scores, outs[1].scores)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offset", [1e4, -1e4])
def test_common_offsets_of_the_bias_cost_nothing(cuda, offset, dtype):
    tree = make_tree("beam", 3, 32, dtype, cuda.device)
    q, bias = queries(len(tree), 3, 32, device=cuda.device), torch.randn(3, 4, device=cuda.device) + offset
    out = cuda.triatt(tree, np.arange(len(tree)), q, make_head("linear", 32, cuda.device), bias, True, False)
    ref = reference.triatt(
        exact(tree), np.arange(len(tree)), exact(q), exact(make_head("linear", 32)), exact(bias), True, False
    )
    assert relative(out.att, ref.att) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("scale", "v"), [(30, 1), (0, 1), (1e4, 1), (1, 1e3), (1e-6, 1)])
def test_extreme_queries_and_values(cuda, scale, v, dtype):
    tree = make_tree("beam", 1, 32, dtype, cuda.device, v=v)
    q = queries(len(tree), 3, 32, device=cuda.device) * scale
    # Logits of a few 10 000 are themselves rounded to 1e-3 in float32, in any implementation.
    tolerance = 1e-2 if scale == 1e4 else 2e-5 if scale == 30 and dtype is torch.float32 else None
    out = cuda.triatt(tree, np.arange(len(tree)), q, make_head("linear", 32, cuda.device), None, True, False)
    ref = reference.triatt(
        exact(tree), np.arange(len(tree)), exact(q), exact(make_head("linear", 32)), None, True, False
    )
    assert relative(out.att, ref.att) < (tolerance or TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_queries_too_large_for_float16(cuda, dtype):
    tree = make_tree("beam", 3, 32, dtype, cuda.device)
    tree.k.mul_(1e-5)
    q = queries(len(tree), 3, 32, device=cuda.device) * 3e5
    compare(cuda, tree, range(len(tree)), q, make_head("linear", 32, cuda.device))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_bias_of_minus_infinity_masks_its_segment(cuda, dtype):
    tree = make_tree("star", 3, 32, dtype, cuda.device, prefix=150)
    tree.segment[:149], tree.segment[149] = IMAGE, QUESTION  # whole tiles without a finite logit
    bias = torch.zeros(3, 4, device=cuda.device)
    bias[:, IMAGE] = -torch.inf
    frontier, q = np.arange(len(tree)), queries(len(tree), 3, 32, device=cuda.device)
    compare(cuda, tree, frontier, q, make_head("linear", 32, cuda.device), bias)


@pytest.mark.parametrize("q_type", DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_queries_of_any_type(cuda, dtype, q_type):
    tree = make_tree("recursive", 1, 32, dtype, cuda.device)
    q = queries(len(tree), 3, 32, device=cuda.device).to(q_type)
    compare(cuda, tree, range(len(tree)), q, make_head("linear", 32, cuda.device))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("heads", [1, 3])
def test_repeats_order_and_constant_queries(cuda, heads, dtype):
    tree = make_tree("beam", heads, 64, dtype, cuda.device)
    head, frontier = make_head("mlp", 64, cuda.device, hidden=17), [5, 12, 5, 0, 11, 5, 1, 5]
    out = compare(cuda, tree, frontier, queries(3, 64, device=cuda.device), head)
    assert torch.equal(out.scores[0], out.scores[2])
    compare(cuda, tree, frontier, queries(8, 3, 64, device=cuda.device), head)


def test_empty_frontier_and_empty_nodes(cuda):
    tree = make_tree("chain", 3, 32, torch.bfloat16, cuda.device, steps=(0, 2), prefix=3)
    head = make_head("linear", 32, cuda.device)
    out = cuda.triatt(tree, np.empty(0, np.int64), queries(0, 3, 32, device=cuda.device), head, None, True, True)
    assert [tuple(a.shape) for a in (out.scores, out.att, *out.state)] == [
        (0, 3),
        (0, 3, 32),
        (0, 3),
        (0, 3),
        (0, 3, 32),
    ]
    compare(cuda, tree, range(len(tree)), queries(len(tree), 3, 32, device=cuda.device), head)


@pytest.mark.parametrize("which", ["k", "v"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("heads", [1, 3])
def test_nan_stays_on_its_paths(cuda, heads, dtype, which):
    tree = make_tree("beam", heads, 32, dtype, cuda.device)
    sick = 5
    getattr(tree, which)[tree.token_ptr[sick], heads - 1] = torch.nan
    q, head = queries(len(tree), 3, 32, device=cuda.device), make_head("linear", 32, cuda.device)
    scores = cuda.triatt(tree, np.arange(len(tree)), q, head, None, False, False).scores.cpu()
    scan = cuda.triatt_scan(tree, q[0].clone(), head, None, None, False).scores.cpu()
    on_path = torch.tensor([sick in tree.path(node) for node in range(len(tree))])
    dimensions = [0, 1, 2] if heads == 1 else [2]
    for found in (scores, scan):
        assert found[on_path][:, dimensions].isnan().all()
        assert found[~on_path].isfinite().all()
        assert found[:, [c for c in range(3) if c not in dimensions]].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", SHAPES)
def test_scan_equals_the_reference(cuda, shape, dtype):
    heads = 1 if shape in ("beam", "star") else 3
    tree = make_tree(shape, heads, 32, dtype, cuda.device, prefix=70)
    tree.segment[::3] = IMAGE  # nodes that hold steps and other tokens
    q, head = queries(3, 32, device=cuda.device), make_head("mlp", 32, cuda.device)
    bias = torch.randn(3, 4, device=cuda.device) * 3
    out = cuda.triatt_scan(tree, q, head, bias, None, True)
    ref = reference.triatt_scan(exact(tree), exact(q), exact(head), exact(bias), None, True)
    check(out, ref, TOLERANCE[dtype])


def test_scan_goes_on_from_states(cuda):
    """A forest below two nodes that were scanned before, one of its nodes without tokens."""
    whole = make_tree("recursive", 3, 40, torch.float32, cuda.device)
    q, head = queries(3, 40, device=cuda.device), make_head("linear", 40, cuda.device)
    bias = torch.randn(3, 4, device=cuda.device)
    old = cuda.triatt_scan(whole, q, head, bias, None, False)
    state = State(*(a[[4, 9, 4]] for a in old.state))
    k, v = (torch.randn(7, 3, 40, device=cuda.device) for _ in "kv")
    new = KVTree([-1, 0, -1, 1, -1], [0, 3, 3, 4, 6, 7], [STEP, IMAGE, STEP, QUESTION, STEP, STEP, STEP], k, v)
    out = cuda.triatt_scan(new, q, head, bias, state, True)
    ref = reference.triatt_scan(exact(new), exact(q), exact(head), exact(bias), exact(state), True)
    check(out, ref, 1e-6)
    nothing = KVTree([-1, 0], [0, 0, 0], [], k[:0], v[:0])
    out = cuda.triatt_scan(nothing, q, head, bias, State(*(a[[4]] for a in old.state)), False)
    torch.testing.assert_close(out.state.o[1] / out.state.l[1, :, None], old.state.o[4] / old.state.l[4, :, None])


def test_large_frontier(cuda):
    tree = make_tree("star", 1, 64, torch.bfloat16, cuda.device, prefix=100)
    frontier = np.random.randint(len(tree), size=70)
    compare(cuda, tree, frontier, queries(70, 3, 64, device=cuda.device), make_head("mlp", 64, cuda.device, hidden=20))


def test_a_graph_replays_with_new_queries(cuda):
    if cuda.device.type != "cuda":
        pytest.skip("graphs need a GPU")
    tree, head = make_tree("beam", 3, 64, torch.bfloat16, "cuda"), make_head("linear", 64, "cuda")
    q, frontier = torch.randn(len(tree), 3, 64, device="cuda"), np.arange(len(tree))
    work = cuda.make_work(tree, frontier, tree.k)
    buffers, graph = cuda.allocate(work, tree.k, att=False, state=False), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        cuda.launch(work, tree.k, tree.v, q, head, None, buffers)
    q.normal_()
    graph.replay()
    assert torch.equal(buffers.scores, cuda.triatt(tree, frontier, q, head, None, False, False).scores)


# ---------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        (Facts(), "it takes torch tensors; got numpy arrays."),
        (Facts(library="torch"), "it runs on a GPU; the tensors are on the cpu."),
        (Facts("cuda", grad=True, library="torch"), "it has no gradients through a softmax state."),
        (Facts("cuda", "float64", library="torch"), "`k` must be float32, bfloat16, float16; got float64."),
        (Facts("cuda", library="torch", precision="float64"), "it computes in float32; `q` is float64."),
        (Facts("cuda", library="torch", width=257), "the width d must be at most 256; got 257."),
    ],
)
def test_calls_that_cannot_run_are_refused(emulated, facts, reason):
    assert emulated.supports(facts) == reason


def test_a_machine_without_gpu_is_told_so(emulated):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert emulated.supports(Facts("cuda", library="torch")) == "torch finds no GPU."


@pytest.mark.parametrize(
    ("major", "shared", "width", "reason"),
    [
        (7, 96, 64, "compute capability 8.0 or more is needed; got 7.0."),
        (8, 99, 65, "a width d above 64 takes 128 KB of shared memory a block, which some GPU does not have."),
        (8, 99, 64, ""),
        (8, 163, 256, ""),
    ],
)
def test_devices_that_lack_something_are_refused(emulated, monkeypatch, major, shared, width, reason):
    device = SimpleNamespace(name="some GPU", major=major, minor=0, shared_memory_per_block_optin=shared * 1024)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: device)
    assert emulated.supports(Facts("cuda", library="torch", width=width)) == reason


def test_a_missing_library_is_told(tmp_path):
    with pytest.raises(ImportError, match=r"none\.so is missing: this installation was built without a CUDA compiler"):
        load(tmp_path / "none.so")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": lambda q: q[:, :2]}, r"`q` must have shape \[4, 3, 32\]; got \[4, 2, 32\]"),
        ({"q": lambda q: q.double()}, "`q` must be float32 or bfloat16 or float16; got float64"),
        ({"q": lambda q: torch.randn(4, 32, 3).mT}, "`q` must be contiguous"),
        ({"k": lambda k: torch.cat([k, k], 2)}, r"`v` must have shape \[\d+, 3, 64\]"),
        ({"v": lambda v: v.bfloat16()}, "`v` must be float32; got bfloat16"),
        (dict.fromkeys("kvq", lambda x: x[..., :5].contiguous()), r"`head.u` must have shape \[3, 5\]"),
    ],
)  # fmt: skip
def test_wrong_tensors_are_named(emulated, change, message):
    tree, head = make_tree("beam"), make_head("linear", 32)
    work = emulated.make_work(tree, np.arange(4), tree.k)
    buffers = emulated.allocate(work, tree.k, att=False, state=False)
    tensors = {"k": tree.k, "v": tree.v, "q": torch.randn(4, 3, 32)}
    tensors |= {name: make(tensors[name]) for name, make in change.items()}
    with pytest.raises(ValueError, match=message):
        emulated.launch(work, *tensors.values(), head, None, buffers)


GOOD = 4096  # an address that is aligned and never read: the checks look at nothing else


def good_call(module):
    pointers = ("k", "v", "q", "order", "tiles", "segment", "programs", "slots", "u", "b", "workspace", "scores")
    sizes = {"kv_type": 1, "q_type": 0, "width": 64, "n_kv_heads": 3, "n_rows": 5, "n_programs": 1, "n_tiles": 1}
    return module._Call(ctypes.sizeof(module._Call), -1, **sizes, scale=1.0, **dict.fromkeys(pointers, GOOD))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("struct_size", 8, "`struct_size` is that of another version"),
        ("kv_type", 3, "`kv_type` must be float32, bfloat16 or float16"),
        ("q_type", -1, "`q_type` must be"),
        ("width", 0, "`width` must be 1 to 256"),
        ("width", 257, "`width` must be 1 to 256"),
        ("width", 12, "`width` must make a key a multiple of 16 bytes"),
        ("n_kv_heads", 2, "`n_kv_heads` must be 1 or 3"),
        ("hidden", -1, "`hidden` must not be negative"),
        ("hidden", 4, "`w` and `c` of a head of two layers must not be null"),
        ("n_rows", -1, "`n_rows` must not be negative"),
        ("n_programs", -1, "`n_programs` must not be negative"),
        ("n_tiles", -1, "`n_tiles` must not be negative"),
        ("q_stride", -1, "`q_stride` must not be negative"),
        ("next", GOOD, None),
        ("first_m", GOOD, "`first_m`, `first_l` and `first_o` must be given together"),
        ("l", GOOD, "`m`, `l` and `o` must be given together"),
        ("k", GOOD + 8, "`k` and `v` must be aligned to 16 bytes"),
        ("workspace", GOOD + 4, "`workspace` must be aligned"),
        *((name, None, f"`{name}`") for name in ("v", "q", "order", "tiles", "programs", "slots", "u", "b", "scores")),
    ],
)
def test_the_c_interface_checks_its_arguments(emulated, field, value, message):
    library, call = emulated._library, good_call(emulated)
    assert library.svip_triatt_cuda_check(call) is None
    setattr(call, field, value)
    found = library.svip_triatt_cuda_check(call)
    if message is None:
        assert found is None
        return
    assert message in found.decode()
    assert library.svip_triatt_cuda_launch(call) == 1  # cudaErrorInvalidValue
    with pytest.raises(ValueError, match="`"):
        emulated._run(call)


def test_null_calls_and_sizes(emulated):
    library = emulated._library
    assert library.svip_triatt_cuda_check(None) == b"`call` must not be null"
    assert [library.svip_triatt_cuda_tile(t, d) for t, d in ((0, 0), (3, 64), (1, 257))] == [0, 0, 0]
    assert all(library.svip_triatt_cuda_tile(t, d) >= 16 for t in range(3) for d in (4, 32, 64, 100, 128, 256))
    assert library.svip_triatt_cuda_workspace(2, 100) == 2 * 3 * 16 * (2 + 128)
    header = (CSRC / "include/svip/triatt_cuda.h").read_text()
    names = [name for name, _ in emulated._Call._fields_]
    body = header[header.index("typedef struct") : header.index("} svip_triatt_cuda_call")]
    assert [line.split(";")[0].replace("*", "").split()[-1] for line in body.splitlines() if ";" in line] == names


# -------------------------------------------------------------------------- what the compiler made of it

ARCHITECTURES = ("80", "90", "100")


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    """The library for three architectures and what ptxas said about each kernel."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("no nvcc")
    library = tmp_path_factory.mktemp("nvcc") / "compiled_cuda.so"
    codes = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in ARCHITECTURES]
    log = build([*(nvcc, "-std=c++17", "-O3", "-shared", "-Xcompiler=-fPIC", "-cudart=static", "-Xptxas=-v", *codes),
                 *(f"-I{CSRC}/include", "-o", str(library), str(CSRC / "cuda/triatt.cu"))])  # fmt: skip
    return library, log


def test_every_kernel_fits_in_registers(compiled):
    _, log = compiled
    lines = [line for line in log.splitlines() if "spill" in line]
    assert len(lines) == len(ARCHITECTURES) * (3 * 4 + 1)  # types x widths, and the head
    assert all("0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in line for line in lines), lines


@pytest.fixture(scope="session")
def machine_code(compiled):
    """The instructions of every kernel of every architecture, (architecture, kernel) -> text."""
    triton = importlib.util.find_spec("triton")
    beside = Path(triton.origin).parent / "backends/nvidia/bin/cuobjdump" if triton and triton.origin else None
    tool = shutil.which("cuobjdump") or (str(beside) if beside and beside.exists() else None)
    if tool is None:
        pytest.skip("no cuobjdump (triton has one)")
    # It looks for nvdisasm on the path.
    path = os.pathsep.join([str(Path(tool).parent), os.environ["PATH"]])
    text = subprocess.run([tool, "-sass", compiled[0]], capture_output=True, text=True, check=True,
                          env={**os.environ, "PATH": path}).stdout  # fmt: skip
    kernels = {}
    for part in text.split("arch = sm_")[1:]:
        for function in part.split("Function : ")[1:]:
            kernels[part.split()[0], function.split()[0]] = function
    assert len(kernels) == len(ARCHITECTURES) * 13
    return kernels


def test_sixteen_bits_use_tensor_cores_and_float32_does_not(machine_code):
    for (architecture, kernel), code in machine_code.items():
        where = f"{kernel} of sm_{architecture}"
        if "Bfloat16" in kernel:
            assert "HMMA.16816.F32.BF16" in code, where
            assert "LDSM" in code, where
        elif "Float16" in kernel:
            assert "HMMA.16816.F32 " in code, where
        else:
            assert "FFMA" in code, where
            assert "HMMA" not in code, where
        assert "TF32" not in code, where


def test_keys_travel_in_16_byte_asynchronous_copies(machine_code):
    for (architecture, kernel), code in machine_code.items():
        if "attend" in kernel:
            assert "LDGSTS.E" in code, f"{kernel} of sm_{architecture}"
            assert ".128" in code[code.index("LDGSTS.E") :].split(";")[0], f"{kernel} of sm_{architecture}"


def test_the_library_loads_without_a_gpu_and_tells_why_it_cannot_run(compiled):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    module = load(compiled[0])
    needed = subprocess.run(["ldd", compiled[0]], capture_output=True, text=True, check=True).stdout
    assert "libcuda" not in needed
    with pytest.raises(
        BackendUnavailable, match=r"`backend` 'cuda' cannot run triatt: CUDA error \d+: .*(driver|device)"
    ):
        module._run(good_call(module))
