"""The command line: ``svip-search solve | evaluate | train | data | models | kernels``."""

from .app import main

__all__ = ["main"]
