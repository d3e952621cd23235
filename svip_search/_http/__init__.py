"""The client that talks to model servers, and what models made of it share."""

from __future__ import annotations

from ._client import HttpClient
from ._encoded import Encoded, parts_size, picture_parts
from ._gathered import gathered
from ._images import data_url
from ._owner import ServerModel, settings_of
from ._protocol import HttpFault
from ._servers import HttpStats, ServerStats

__all__ = [
    "Encoded",
    "HttpClient",
    "HttpFault",
    "HttpStats",
    "ServerModel",
    "ServerStats",
    "data_url",
    "gathered",
    "parts_size",
    "picture_parts",
    "settings_of",
]
