"""What policies and reward models behind servers share: they close what they open, and travel as their settings."""

from __future__ import annotations

from functools import partial
from typing import Any, Self

from .._errors import SvipSearchError
from ._client import HttpClient

_OF_CLIENT = ("base_url", "api_key", "api_key_env", "slots", "timeout", "retries", "max_bytes")
_REACHED_BY = frozenset((*_OF_CLIENT, "secret", "concurrent_calls", "batch", "cache_size"))


class ServerModel:
    """Base of models behind servers.

    A class made of it sets ``_settings`` to all arguments it was made with, and calls `_connect`.
    """

    _client: HttpClient
    _settings: dict[str, Any]

    def _connect(self, error: type[SvipSearchError], name: str) -> None:
        """Make the client: it raises ``error``, and its messages call a server by ``name``."""
        asked = {argument: self._settings[argument] for argument in _OF_CLIENT}
        self._client = HttpClient(**asked, error=error, name=name)

    @property
    def identity(self) -> dict[str, Any]:
        """Who the model is for runs and caches: its settings, but for where it is, how it is reached and secrets."""
        return {"class": type(self).__name__} | {n: v for n, v in self._settings.items() if n not in _REACHED_BY}

    async def arelease(self) -> None:
        """Close the connections of the running event loop, which ends."""
        await self._client.arelease()

    def close(self) -> None:
        """Close all connections; a later call opens new ones."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), **self._settings), ()

    def __repr__(self) -> str:
        named = (repr(self._settings[name]) for name in ("base_url", "model") if name in self._settings)
        return f"{type(self).__name__}({', '.join(named)})"


def settings_of(names: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments among the local names at the beginning of ``__init__``."""
    return {name: value for name, value in names.items() if name not in ("self", "__class__")}
