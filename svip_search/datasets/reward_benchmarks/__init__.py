"""Loaders of the public benchmarks of reward models, and of SVIP-Test.

Each returns frozen records and reads what the benchmark publishes, with the deviations that copies of it have.
A record that cannot be used is a `RecordError` of one line: file, place, field, requirement, offender.
"""

from .._svip_check import RecordError
from ._shared import CandidatesItem, Item, PairItem, PrefixItem, StepsItem
from .mm_rlhf_rewardbench import RlhfPair, load_mm_rlhf_rewardbench
from .mmprm_bon import load_mmprm_bon
from .svip_test import load_svip_test
from .visualprocessbench import load_visualprocessbench
from .vl_rewardbench import load_vl_rewardbench
from .vlrmbench import load_vlrmbench

__all__ = [
    "CandidatesItem",
    "Item",
    "PairItem",
    "PrefixItem",
    "RecordError",
    "RlhfPair",
    "StepsItem",
    "load_mm_rlhf_rewardbench",
    "load_mmprm_bon",
    "load_svip_test",
    "load_visualprocessbench",
    "load_vl_rewardbench",
    "load_vlrmbench",
]
