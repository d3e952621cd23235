"""The planner of the tree attention in numpy: slow, obvious, and what the compiled one is compared with."""

import numpy as np


def plan(parent, token_ptr, frontier, block, tile):
    """Return (order, tiles, tile_ptr) as `svip_search._core.triatt_plan` does."""
    parent, token_ptr, frontier = (np.asarray(a) for a in (parent, token_ptr, frontier))
    children = {}
    for node in range(len(parent)):
        children.setdefault(int(parent[node]), []).append(node)
    order, rows = [], {}  # rows: node -> (begin, own, end)
    walk = [(root, False) for root in reversed(children.get(-1, []))]
    while walk:
        node, done = walk.pop()
        if done:
            rows[node] = (*rows[node], len(order))
            continue
        begin = len(order)
        order += np.flatnonzero(frontier == node).tolist()
        rows[node] = (begin, len(order))
        walk.append((node, True))
        walk += [(child, False) for child in reversed(children.get(node, []))]
    tiles, tile_ptr = [], [0]
    for first in range(0, len(frontier), block):
        last = min(first + block, len(frontier))
        for node, (begin, own, end) in sorted(rows.items()):  # a parent has the smaller index
            lo, hi = max(begin, first), min(end, last)
            if lo >= hi:
                continue
            middle = min(max(own, lo), hi)
            for token in range(int(token_ptr[node]), int(token_ptr[node + 1]), tile):
                tiles.append((token, min(tile, int(token_ptr[node + 1]) - token), lo, middle, hi))
        tile_ptr.append(len(tiles))
    return (
        np.array(order, np.int32),
        np.array(tiles, np.int32).reshape(-1, 5),
        np.array(tile_ptr, np.int32),
    )
