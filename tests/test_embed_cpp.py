"""Programs in C++ and in C that embed the core, built against an installed copy of it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from svip_search.kernels.triatt import IMAGE, QUESTION, STEP, Head, KVTree, triatt

ROOT = Path(__file__).resolve().parent.parent
BUILT = ROOT / "build" / "cpp"  # where `make test` builds
WIDTH, TOKENS, LEAVES = 64, 60, 2

# `make` puts the environment's CMake on the path; without it, it is looked for beside Python.
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
CMAKE = shutil.which("cmake", path=PATH)
COMPILERS = [os.environ.get("CXX", "c++"), os.environ.get("CC", "cc")]

pytestmark = [
    pytest.mark.skipif(CMAKE is None, reason="CMake is not installed"),
    pytest.mark.skipif(not all(map(shutil.which, COMPILERS)), reason="there is no C and C++ compiler"),
]


def run(*command: str | Path) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def core(folder: Path) -> Path:
    """Return a folder where the core is built: that of `make test`, brought up to date, or a new one."""
    if (BUILT / ".built").exists():
        run(CMAKE, "--build", BUILT, "--target", "svip_core")
        return BUILT
    quick = "-DCMAKE_CXX_FLAGS_RELEASE=-O0"  # what is tested here is not speed, and optimizing takes a minute
    run(CMAKE, "-S", ROOT / "csrc", "-B", folder, "-DSVIP_BUILD_PYTHON=OFF", "-DSVIP_CUDA=OFF", quick)
    run(CMAKE, "--build", folder)
    return folder


@pytest.fixture(scope="module")
def programs(tmp_path_factory) -> Path:
    """The folder of the two programs, built the way the README of the example says."""
    folder = tmp_path_factory.mktemp("embed")
    prefix, build = folder / "prefix", folder / "build"
    run(CMAKE, "--install", core(folder / "core"), "--prefix", prefix, "--component", "svip_core")
    shutil.copytree(ROOT / "examples" / "embed_cpp", folder / "example")  # out of reach of the source tree
    run(CMAKE, "-S", folder / "example", "-B", build, f"-DCMAKE_PREFIX_PATH={prefix}")
    assert f"svip_DIR:PATH={prefix}" in (build / "CMakeCache.txt").read_text()  # not some other installation
    run(CMAKE, "--build", build)
    return build


def numbers(first: int, *shape: int) -> np.ndarray:
    i = np.arange(first, first + np.prod(shape), dtype=np.uint32) * np.uint32(2654435761)
    i = (i ^ i >> 15) * np.uint32(2246822519)
    return (((i ^ i >> 13) >> 8) / 2.0**23 - 1).reshape(shape)


def expected() -> np.ndarray:
    """Scores of the example's tree in double precision."""
    segment = np.repeat([QUESTION, IMAGE, STEP], [12, 18, 30])
    k, v = numbers(0, TOKENS, 3, WIDTH), numbers(1_000_000, TOKENS, 3, WIDTH)
    tree = KVTree([-1, 0, 1, 0], [0, 30, 40, 55, 60], segment, k, v)
    head = Head(numbers(2_000_000, 3, WIDTH), np.array([0.0, 0.5, -0.5]))
    return triatt(tree, [2, 3], numbers(3_000_000, LEAVES, 3, WIDTH), head, backend="reference").scores


@pytest.mark.parametrize("program", ["embed_cpp", "embed_c"])
def test_an_embedding_program_prints_the_scores_of_the_reference(programs, program):
    lines = run(programs / program).splitlines()
    pattern = r"node (\d): relevance ([\d.]+), logic ([\d.]+), attribute ([\d.]+)"
    found = [re.fullmatch(pattern, line).groups() for line in lines]
    assert [node for node, *_ in found] == ["2", "3"]
    np.testing.assert_allclose(np.array([row[1:] for row in found], float), expected(), atol=1e-5, rtol=0)
