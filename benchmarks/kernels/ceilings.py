"""What the machine can do at most, measured in the same run as what it is compared with."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

SOURCE = Path(__file__).resolve().parents[1] / "cpp" / "peak.cpp"
FLAGS = ["-std=c++20", "-O3", "-march=native", "-ffp-contract=fast", "-pthread", "-shared", "-fPIC"]
READ_BYTES = 256 << 20  # far larger than any cache
TURNS, ROUNDS = 4_000_000, 25  # short and many: on a busy machine some are left alone


@dataclass(frozen=True)
class Ceilings:
    """Best of some rounds; GFLOP/s, and GB/s of reading memory.  None: it could not be measured.

    On a GPU ``fma`` is a float32 product of matrices without tf32, and ``bf16_dot`` one in bfloat16.
    """

    device: str
    threads: int
    fma: float | None
    bf16_dot: float | None
    read: float | None
    sgemm: float
    bf16_gemm: float

    def floor_ms(self, flops: float, n_bytes: float, dtype: str) -> float | None:
        """Return the shortest time the machine could need, None where a ceiling is missing."""
        peak = self.fma if dtype == "float32" else self.bf16_dot or self.fma
        return None if peak is None or self.read is None else max(flops / peak, n_bytes / self.read) / 1e6

    def facts(self) -> dict[str, float | str | int | None]:
        """Return what goes into a record."""
        return {k: round(v, 1) if isinstance(v, float) else v for k, v in asdict(self).items()}


def measure(threads: int, device: str = "cpu") -> Ceilings:
    """Return the ceilings on so many threads, or of a GPU."""
    if device != "cpu":
        return _measure_gpu(device)
    gemms = _gemm("cpu", torch.float32), _gemm("cpu", torch.bfloat16)
    try:
        library = _compile()
    except (OSError, subprocess.CalledProcessError):
        return Ceilings("cpu", threads, None, None, None, *gemms)
    data = np.ones(READ_BYTES // 4 + 16, np.float32)
    data = data[(-data.ctypes.data % 64) // 4 :]
    address = ctypes.c_void_p(data.ctypes.data)
    return Ceilings(
        device="cpu",
        threads=threads,
        fma=max(library.fma_rate(threads, TURNS) for _ in range(ROUNDS)) / 1e9,
        bf16_dot=max(library.bf16_dot_rate(threads, TURNS) for _ in range(ROUNDS)) / 1e9 or None,
        read=max(library.read_rate(address, READ_BYTES // 4, threads) for _ in range(ROUNDS)) / 1e9,
        sgemm=gemms[0],
        bf16_gemm=gemms[1],
    )


def _compile() -> ctypes.CDLL:
    """Compile `peak.cpp` for this machine; takes a second or two.

    Raises:
        OSError: there is no compiler.
        subprocess.CalledProcessError: it does not take the source.
    """
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise FileNotFoundError("no C++ compiler; set CXX")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "peak.so"
        subprocess.run([compiler, *FLAGS, str(SOURCE), "-o", str(path)], check=True, capture_output=True)
        library = ctypes.CDLL(str(path))
    library.fma_rate.argtypes = library.bf16_dot_rate.argtypes = [ctypes.c_int, ctypes.c_long]
    library.read_rate.argtypes = [ctypes.c_void_p, ctypes.c_long, ctypes.c_int]
    for function in (library.fma_rate, library.bf16_dot_rate, library.read_rate):
        function.restype = ctypes.c_double
    return library


def _gemm(device: str, dtype: torch.dtype, size: int = 1024) -> float:
    """Return GFLOP/s of torch's product of square matrices, on the threads torch has now."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / _best(lambda: a @ b, device) / 1e9


def _measure_gpu(device: str) -> Ceilings:
    torch.backends.cuda.matmul.allow_tf32 = False
    gemms = _gemm(device, torch.float32, 8192), _gemm(device, torch.bfloat16, 8192)
    source = torch.ones(1 << 30, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    read = 2 * source.numel() / _best(lambda: target.copy_(source), device) / 1e9
    return Ceilings(torch.cuda.get_device_name(device), 0, gemms[0], gemms[1], read, *gemms)


def _best(run: object, device: str) -> float:
    best = float("inf")
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        run()
        if device != "cpu":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return best
