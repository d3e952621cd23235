"""The command line: ``svip-search solve | evaluate | train | models | kernels``."""

from .app import main

__all__ = ["main"]
