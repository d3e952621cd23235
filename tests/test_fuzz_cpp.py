"""Random calls of the C interface under the address and undefined-behaviour sanitizers.

The program, `tests/cpp/fuzz_triatt_c.cpp`, is built once into `build/fuzz`; a source is compiled again when it
or a header is newer than its object file.
"""

from __future__ import annotations

import os
import platform
import secrets
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES, FUZZER = ROOT / "csrc" / "src", ROOT / "tests" / "cpp" / "fuzz_triatt_c.cpp"
BUILD = ROOT / "build" / "fuzz"
SECONDS = 5  # a seed

AVX2 = ["-mavx2", "-mfma"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq"]
ON_X86 = platform.machine() in ("x86_64", "AMD64")
#: Sources that are not compiled with -O1 alone.  Tiers take too long to be optimized; one compiled without flags is
#: empty, and that is what becomes of bfloat16 products, which the C interface does not offer.
FLAGS = {"triatt_avx2": ["-O0", *AVX2], "triatt_avx512": ["-O0", *AVX512]} if ON_X86 else {}
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
COMMON = ["-std=c++20", "-g1", "-ffp-contract=off", *SANITIZE, f"-I{ROOT / 'csrc' / 'include'}"]

pytestmark = pytest.mark.skipif(
    platform.system() != "Linux" or shutil.which("g++") is None, reason="the fuzzer is built by g++ on Linux"
)


def run(*command: str | Path) -> None:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def compiled(source: Path) -> tuple[Path, bool]:
    """Return a source's object file, and whether it had to be made."""
    target = BUILD / f"{source.stem}.o"
    headers = [*SOURCES.glob("*.h"), *(ROOT / "csrc" / "include").rglob("*.h"), Path(__file__)]
    newest = max(path.stat().st_mtime_ns for path in [source, *headers])
    if target.exists() and target.stat().st_mtime_ns > newest:
        return target, False
    half = target.with_suffix(f".{os.getpid()}.o")  # never seen under the name that counts before it is whole
    run("g++", *COMMON, "-O1", *FLAGS.get(source.stem, []), "-c", source, "-o", half)
    half.replace(target)
    return target, True


@pytest.fixture(scope="module")
def fuzzer() -> Path:
    BUILD.mkdir(parents=True, exist_ok=True)
    program = BUILD / "fuzz_triatt_c"
    sources = [path for path in SOURCES.glob("*.cpp") if not path.stem.startswith(("forest", "tree"))] + [FUZZER]
    with ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
        objects = list(pool.map(compiled, sorted(sources)))
    if not program.exists() or any(fresh for _, fresh in objects):
        run("g++", *SANITIZE, *(path for path, _ in objects), "-o", program, "-pthread")
    return program


@pytest.mark.parametrize("seed", [1, secrets.randbits(32)], ids=["fixed", "fresh"])
def test_random_calls_do_what_the_model_says(fuzzer, seed):
    last = BUILD / f"input-of-seed-{seed}"
    command = [fuzzer, "--seed", str(seed), "--seconds", str(SECONDS), "--last", last]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS + 60)
    assert done.returncode == 0, f"seed {seed}; again: {fuzzer} {last}\n{done.stdout}\n{done.stderr}"
    assert f"seed {seed}: " in done.stdout
    assert int(done.stdout.split()[2]) > 100  # inputs
    last.unlink()
