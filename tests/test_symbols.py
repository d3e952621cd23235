"""What the object files of the SIMD tiers give to the linker.

A tier is compiled for processors that not everyone has.  If it defined an inline function or a template of a
header as well, the linker could keep that copy for all callers, and the library would stop with an illegal
instruction on older processors.  So a tier defines one symbol, the pointer to its table, and nothing weak.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

OBJECTS = Path(__file__).resolve().parent.parent / "build" / "cpp" / "CMakeFiles" / "svip_core.dir" / "src"
TIERS = {
    "baseline": "kTierBaseline",
    "avx2": "kTierAvx2",
    "avx512": "kTierAvx512",
    "avx512bf16": "kTierAvx512Bf16",
}
NM = shutil.which("nm")
#: Libraries that any processor runs: of the C library only the routines that compilers call by themselves.
ALLOWED = {"memcpy", "memset", "memmove", "memcmp", "_GLOBAL_OFFSET_TABLE_", "__stack_chk_fail"}


def symbols(path: Path) -> list[tuple[str, str]]:
    """Type and name of every symbol of an object file."""
    text = subprocess.run([NM, "--format=posix", str(path)], capture_output=True, text=True, check=True).stdout
    return [(kind, name) for name, kind, *_ in map(str.split, text.splitlines())]


def object_file(folder: Path, tier: str) -> Path:
    return folder / f"triatt_{tier}.cpp.o"


@pytest.mark.skipif(NM is None, reason="nm is not installed")
@pytest.mark.skipif(not object_file(OBJECTS, "baseline").exists(), reason="the core is not built; `make test` does")
@pytest.mark.parametrize("tier", TIERS)
def test_a_tier_gives_the_linker_its_table_and_nothing_else(tier):
    found = symbols(object_file(OBJECTS, tier))
    shared = [name for kind, name in found if kind not in "bdrtnN" and kind != "U"]  # all that is not local
    assert [re.sub(r"^_ZN4svip\d+(\w+)E$", r"\1", name) for name in shared] == [TIERS[tier]]
    assert {name for kind, name in found if kind == "U"} <= ALLOWED


@pytest.mark.skipif(NM is None, reason="nm is not installed")
@pytest.mark.skipif(shutil.which("c++") is None, reason="there is no C++ compiler")
def test_an_inline_function_of_a_header_would_be_seen(tmp_path):
    source = tmp_path / "leak.cpp"
    source.write_text(
        "inline int leak(int x) { return x * x; }\nextern int (*const take)(int);\nint (*const take)(int) = leak;\n"
    )
    subprocess.run(["c++", "-c", str(source), "-o", str(tmp_path / "leak.o")], check=True)
    assert {kind for kind, name in symbols(tmp_path / "leak.o") if "leak" in name} == {"W"}
