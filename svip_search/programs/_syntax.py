"""Reading Python that nobody has checked."""

from __future__ import annotations

import ast
import threading
import warnings

# The filters of warnings belong to the process: one thread at a time may change them.
_PARSING = threading.Lock()


def syntax_tree(source: str) -> ast.Module:
    """Return the syntax tree of a text, without the warnings about doubtful escapes: they are not the user's.

    Raises:
        SyntaxError: there is none, also where the text is nested too deeply, or is no text that can be encoded.

    Example:
        >>> len(syntax_tree("a = 1; b = 2").body)
        2
    """
    try:
        source.encode()
        with _PARSING, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(source)
    except SyntaxError:
        raise
    except (ValueError, RecursionError, MemoryError) as error:
        raise SyntaxError(f"cannot be read: {type(error).__name__}") from error
