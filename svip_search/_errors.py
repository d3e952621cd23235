"""The errors a caller may want to branch on; everything else is a ValueError or TypeError."""

from __future__ import annotations


class SvipSearchError(Exception):
    """Base class of the library's own errors."""


class BackendUnavailable(SvipSearchError):
    """An explicitly requested kernel backend cannot run on this machine."""


class PolicyError(SvipSearchError):
    """A policy raised, or returned something that cannot be used."""


class RewardError(SvipSearchError):
    """A reward model raised, or returned something that cannot be used."""


class BudgetExhausted(SvipSearchError):
    """Nothing could be done within the budget."""


class ModelFileError(SvipSearchError, ValueError):
    """A model folder or file is missing, corrupt or of the wrong shape."""


class ImageError(SvipSearchError, ValueError):
    """An image cannot be read, or is not one this library accepts."""


class TrainingError(SvipSearchError):
    """A training cannot go on: its data cannot be used, or its loss is no number."""


class JournalError(SvipSearchError):
    """A journal cannot be used: damaged, of another version, of other settings, locked, or its disk is full."""
