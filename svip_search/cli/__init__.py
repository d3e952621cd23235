"""The command line: ``svip-search solve | evaluate | train | models``."""

from .app import main

__all__ = ["main"]
