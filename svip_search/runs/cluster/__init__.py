"""A run on the machines of a Ray cluster: workers, the journal they share, files, and replicas of models.

::

    driver's machine    the journal, in an actor; files of pictures, which the actor hands out
    any machine         workers: each leases items, searches them, and writes results through that actor
    any machine         replicas of the policy and of the reward model, asked by all workers (optional)

A worker or replica that dies is replaced; what a worker had leased is searched again by another.
"""

from .store import JournalActor, RayStore
from .workers import Cluster, RayWorkers

__all__ = ["Cluster", "JournalActor", "RayStore", "RayWorkers"]
