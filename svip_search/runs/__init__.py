"""Long runs: files of questions, a journal that survives everything, results as files."""

from __future__ import annotations

from .export import export
from .questions import as_question, read_questions
from .runner import RunReport, item_seed, run
from .stop import Stop

__all__ = ["RunReport", "Stop", "as_question", "export", "item_seed", "read_questions", "run"]
