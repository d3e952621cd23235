"""The client that talks to model servers, and what it sends pictures as."""

from __future__ import annotations

from ._client import HttpClient
from ._images import data_url
from ._protocol import HttpFault
from ._servers import HttpStats, ServerStats

__all__ = ["HttpClient", "HttpFault", "HttpStats", "ServerStats", "data_url"]
