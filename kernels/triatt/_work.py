"""Who reads which tokens, as arrays on a device: made once, used for many calls.

Two layouts.  `Work` is for any queries: rows of a frontier, sorted so that every subtree is one range,
in blocks; a block's tiles, root before leaf, are cut into programs of about equal cost, so that a long
prefix is read by many multiprocessors at once.  `ScanWork` is for constant queries, where every tile is
read exactly once and belongs to a node instead of a row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from svip_search import _core

from ._types import KVTree

#: A program takes at least this many tiles, or merging would cost more than the split saves.
_LEAST_TILES = 4
#: What a tile costs beside its tokens, in tokens: its five numbers, two reductions, one rescaling.
_TILE_COST = 16
#: Every array starts at a multiple of this, which is what the widest loads want.
_ALIGN = 128


@dataclass(frozen=True, eq=False, slots=True)
class Work:
    """The plan of one frontier on one device.

    Args:
        order: int32 [M]; row r of the sorted queries is frontier position ``order[r]``.
        tiles: int32 [W, 5] = (token, n_tokens, row_begin, row_own, row_end): rows row_begin..row_end
            see the tokens, those before row_own as "this step", the others as "earlier step".
        segment: uint8 [T], the class of each token.
        programs: int32 [G, 4] = (row_begin, row_end, tile_begin, tile_end); each writes one partial
            result for each of its rows.
        slots: int32 [B + 1]; the programs of block b are ``slots[b]:slots[b + 1]``, at least one.
        block: rows of a query block; row r is in block r // block.
        tile: the most tokens of a tile.
    """

    order: torch.Tensor
    tiles: torch.Tensor
    segment: torch.Tensor
    programs: torch.Tensor
    slots: torch.Tensor
    block: int
    tile: int


@dataclass(frozen=True, eq=False, slots=True)
class ScanWork:
    """The tiles of a whole tree on one device.

    Args:
        tiles: int32 [W, 3] = (token, n_tokens, segment): tokens of one node and one class.
        tile_ptr: int32 [N + 1]; the tiles of node n are ``tile_ptr[n]:tile_ptr[n + 1]``.
        parent: int32 [N], the parent, or -1 - i for the i-th root.
        tile: the most tokens of a tile.
    """

    tiles: torch.Tensor
    tile_ptr: torch.Tensor
    parent: torch.Tensor
    tile: int


def make_work(
    tree: KVTree, frontier: NDArray[np.int64], block: int, tile: int, wanted: int, device: torch.device | str
) -> Work:
    """Return the work of a frontier, copied to ``device`` in one piece and without waiting for it.

    Args:
        tree: the nodes; keys and values are not read.
        frontier: int64 [M], nodes to score; may be empty.
        block: rows of a query block.
        tile: the most tokens of a tile.
        wanted: how many programs to aim for, about four for every multiprocessor and K/V head.
        device: where the arrays go.
    """
    nodes = frontier.astype(np.int32)
    order, tiles, tile_ptr = _core.triatt_plan(tree.parent, tree.token_ptr, nodes, block, tile)
    programs, slots = _split(tiles, tile_ptr, len(order), block, wanted)
    arrays = _to_device((order, tiles, tree.segment, programs, slots), device)
    return Work(*arrays, block=block, tile=tile)


def make_scan_work(tree: KVTree, tile: int, device: torch.device | str) -> ScanWork:
    """Return the work of a scan over all nodes, on ``device``; arguments as in ``make_work``."""
    owner = np.repeat(np.arange(len(tree)), np.diff(tree.token_ptr))
    token = np.arange(len(owner))
    # A run is a stretch of one node's tokens of one class; tiles are cut at multiples of `tile` from its start.
    starts = np.ones(len(owner), bool)
    starts[1:] = (owner[1:] != owner[:-1]) | (tree.segment[1:] != tree.segment[:-1])
    run_start = np.maximum.accumulate(np.where(starts, token, 0))
    begin = np.flatnonzero((token - run_start) % tile == 0)
    length = np.diff(begin, append=len(owner))
    tiles = np.stack([begin, length, tree.segment[begin]], 1).astype(np.int32)
    tile_ptr = np.searchsorted(begin, tree.token_ptr).astype(np.int32)
    parent = tree.parent.copy()
    roots = np.flatnonzero(parent < 0)
    parent[roots] = -1 - np.arange(len(roots))
    return ScanWork(*_to_device((tiles, tile_ptr, parent), device), tile=tile)


def wanted_programs(k: torch.Tensor) -> int:
    """Return how many programs keep the device of the keys busy: four for every multiprocessor, over all heads."""
    if k.device.type != "cuda":
        return 8
    return max(1, 4 * torch.cuda.get_device_properties(k.device).multi_processor_count // int(k.shape[1]))


def _split(
    tiles: NDArray[np.int32], tile_ptr: NDArray[np.int32], n_rows: int, block: int, wanted: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return the programs and their slots: every block's tiles cut where the cost is even."""
    cost = np.concatenate([[0], np.cumsum(tiles[:, 1] + np.int64(_TILE_COST))])
    first, last = tile_ptr[:-1], tile_ptr[1:]
    block_cost = cost[last] - cost[first]
    share = max(1, int(cost[-1]) // max(1, wanted))
    parts = np.clip(-(-block_cost // share), 1, np.maximum(1, (last - first) // _LEAST_TILES))
    slots = np.concatenate([[0], np.cumsum(parts)]).astype(np.int32)
    of = np.repeat(np.arange(len(first)), parts)  # the block of each program
    part = np.arange(slots[-1]) - slots[of]
    begin = np.searchsorted(cost, cost[first[of]] + block_cost[of] * part // parts[of])
    # The next program goes on where this one ends; a block's last one ends with the block.
    end = np.where(part + 1 < parts[of], np.append(begin[1:], 0), last[of])
    rows = of * block
    programs = np.stack([rows, np.minimum(rows + block, n_rows), begin, end], 1)
    return programs.astype(np.int32), slots


def _to_device(arrays: tuple[NDArray[np.generic], ...], device: torch.device | str) -> list[torch.Tensor]:
    """Return the arrays on a device; one copy for all, because each has a fixed price."""
    device = torch.device(device)
    starts = np.cumsum([0, *(-(-a.nbytes // _ALIGN) * _ALIGN for a in arrays)])
    host = torch.empty(int(starts[-1]), dtype=torch.uint8, pin_memory=device.type == "cuda")
    for start, array in zip(starts, arrays, strict=False):
        host.numpy()[start : start + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    there = host.to(device, non_blocking=True)
    return [
        there[start : start + array.nbytes].view(getattr(torch, str(array.dtype))).view(array.shape)
        for start, array in zip(starts, arrays, strict=False)
    ]
