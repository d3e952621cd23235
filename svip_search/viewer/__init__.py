"""The solved tree as one page that opens anywhere."""

from .html import render_html, write_html

__all__ = ["render_html", "write_html"]
