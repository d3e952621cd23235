"""The journal of a long run: what is to do, who does it and what came out, in one SQLite file.

An item goes from waiting to leased when an owner claims it, and from leased to done when its result is
written, or to failed after too many attempts.  A lease that runs out puts it up for claiming again, so what
a killed process held is not lost; a result is written once, whoever comes first, in the same transaction
as the change of state.  Any number of processes on one machine may work on one journal.
"""

from ._journal import Journal
from ._leasing import Counts, Item, new_owner

__all__ = ["Counts", "Item", "Journal", "new_owner"]
