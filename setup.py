"""Build of the compiled core and the mapping of kernels/; everything else is in pyproject.toml."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

CUDA = "_triatt_cuda.so"


class BuildCore(build_ext):
    """Drives CMake over csrc/ and places the module _core, and the CUDA backend if there is one, in svip_search/."""

    def build_extension(self, ext: Extension) -> None:
        """Configure, build, and copy the one module to where setuptools expects it."""
        import pybind11

        source = Path(__file__).resolve().parent / "csrc"
        work = Path(self.build_temp).resolve() / "csrc"
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        # A folder configured for another interpreter or an isolated build that is gone cannot be reused.
        (work / "CMakeCache.txt").unlink(missing_ok=True)
        jobs = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL", "2")
        configure = [
            *("cmake", "-S", str(source), "-B", str(work)),
            f"-DCMAKE_BUILD_TYPE={'Debug' if self.debug else 'Release'}",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={work}/module",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY_RELEASE={work}/module",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            "-DSVIP_CUDA=OFF",
        ]
        if "CMAKE_GENERATOR" not in os.environ and shutil.which("ninja"):
            configure += ["-G", "Ninja"]
        subprocess.run(configure, check=True)
        build = ["cmake", "--build", str(work), "--config", "Release", "--target", "_core"]
        subprocess.run([*build, "--parallel", jobs], check=True)
        place(next((work / "module").glob("_core*")), target)
        self.build_cuda(source, work.parent / "cuda", target.parent / CUDA)

    def copy_extensions_to_source(self) -> None:
        """For an editable installation: setuptools copies the module, and this the library beside it."""
        super().copy_extensions_to_source()
        if (built := Path(self.build_lib) / "svip_search" / CUDA).exists():
            place(built, Path(__file__).resolve().parent / "svip_search" / CUDA)

    def build_cuda(self, source: Path, work: Path, target: Path) -> None:
        """Build the CUDA backend where nvcc is found; SVIP_CUDA=OFF leaves it out, SVIP_CUDA=ON demands it."""
        wanted = os.environ.get("SVIP_CUDA", "AUTO").upper()
        compiler = os.environ.get("CUDACXX") or shutil.which("nvcc")
        if wanted in ("OFF", "0") or (compiler is None and wanted not in ("ON", "1")):
            return
        work.mkdir(parents=True, exist_ok=True)
        (work / "CMakeCache.txt").unlink(missing_ok=True)
        try:
            options = ["-DCMAKE_BUILD_TYPE=Release", "-DSVIP_BUILD_PYTHON=OFF", "-DSVIP_CUDA=ON"]
            subprocess.run(["cmake", "-S", source, "-B", work, *options], check=True)
            build = ["cmake", "--build", work, "--config", "Release", "--target", "svip_triatt_cuda"]
            subprocess.run(build, check=True)
            place(next(work.rglob(target.name)), target)
        except (subprocess.CalledProcessError, OSError) as error:
            if wanted in ("ON", "1"):
                raise
            print(f"The CUDA backend was not built, the others work without it: {error}", file=sys.stderr)


def place(built: Path, target: Path) -> None:
    """Copy a library to its place; a process that has the old one loaded keeps it."""
    target.unlink(missing_ok=True)
    shutil.copyfile(built, target)


# A top-level package of the name kernels would collide with other projects' kernels.
kernels = {f"svip_search.{name}": name.replace(".", "/") for name in find_packages(include=["kernels*"])}

setup(
    packages=[*find_packages(include=["svip_search*"]), *kernels],
    package_dir=kernels,
    ext_modules=[Extension("svip_search._core", sources=[])],
    cmdclass={"build_ext": BuildCore},
)
