"""What other libraries offer on a GPU; each needs its own package and half precision."""

from __future__ import annotations

import importlib
import math
from typing import Any

import numpy as np
import torch
from baselines import Baseline, Limits, Output, Ready, Skipped, afford, dimensions_first, finish
from trees import Workload

PAGE = 16
WORKSPACE_BYTES = 128 << 20  # what FlashInfer recommends


def flash_attention(work: Workload, limits: Limits) -> Ready:
    """Gather all paths without padding, then one call of flash-attn's kernel for ragged batches."""
    attend = _load(work, "flash_attn").flash_attn_varlen_func
    paths = work.rows.paths()
    k, v, q = _tokens_first(work)
    index = torch.as_tensor(np.concatenate(paths), device=work.device)
    afford(limits, moved=2 * index.numel() * k.shape[1] * k.shape[2] * k.element_size())
    lengths = [len(path) for path in paths]
    starts_q, starts_k = _int32(work, np.arange(len(paths) + 1)), _int32(work, np.cumsum([0, *lengths]))

    def run() -> Output:
        return finish(work, attend(q, k[index], v[index], starts_q, starts_k, 1, max(lengths)))

    return Ready(run, work.rows.order)


def flashinfer_cascade(work: Workload, limits: Limits) -> Ready:
    """FlashInfer's cascade over paged keys and values, one level of it for each level of the tree."""
    module = _load(work, "flashinfer")
    rows, (k, v, q) = work.rows, _tokens_first(work)
    pages = -(-np.diff(rows.ptr) // PAGE)  # of each node; no page has tokens of two
    first_page = np.concatenate([[0], np.cumsum(pages)])
    token = np.concatenate([
        first_page[s] * PAGE + np.arange(rows.ptr[s + 1] - rows.ptr[s]) for s in range(len(rows.nodes))
    ])  # fmt: skip
    cache = torch.zeros(int(first_page[-1]) * PAGE, 2, *k.shape[1:], dtype=k.dtype, device=k.device)
    cache[torch.as_tensor(token, device=k.device)] = torch.stack([k, v], 1)
    cache = cache.view(-1, PAGE, 2, *k.shape[1:]).transpose(1, 2).contiguous()
    levels = [_level(work, level, first_page) for level in range(int(_depths(work).max()) + 1)]
    workspace = torch.empty(WORKSPACE_BYTES, dtype=torch.uint8, device=work.device)
    wrapper = module.MultiLevelCascadeAttentionWrapper(len(levels), workspace, "NHD")
    wrapper.plan(
        *([_int32(work, level[i]) for level in levels] for i in range(4)),
        num_qo_heads=3,
        num_kv_heads=k.shape[1],
        head_dim=k.shape[2],
        page_size=PAGE,
        q_data_type=q.dtype,
    )
    return Ready(lambda: finish(work, wrapper.run(q, cache)), rows.order)


def xformers_tree(work: Workload, limits: Limits) -> Ready:
    """xformers' tree attention: the root as a shared prefix, all other tokens under a dense mask."""
    ops = _load(work, "xformers.ops.tree_attention")
    bias = _load(work, "xformers.ops.fmha.attn_bias").BlockDiagonalPaddedKeysMask
    k, v, q = _tokens_first(work)
    k, v = (a.expand(-1, 3, -1)[None].contiguous() for a in (k, v))  # it wants as many heads as queries have
    n_rows, prefix = len(work.rows.order), int(work.rows.ptr[1])
    n_columns = k.shape[1] - prefix
    if n_rows > n_columns:
        raise Skipped("it wants at least as many tokens below the root as queries")
    afford(limits, bytes=4 * n_rows * n_columns)
    begin, end = (torch.as_tensor(bound[prefix:], device=work.device) for bound in work.rows.seen_by)
    row = torch.arange(n_rows, device=work.device)[:, None]
    # Rows of the mask must start at multiples of 16 bytes.
    mask = q.new_zeros(n_rows, -(-n_columns // 8) * 8)[:, :n_columns]
    mask.masked_fill_((row < begin) | (row >= end), -math.inf)
    shared = bias.from_seqlens(q_seqlen=[n_rows], kv_padding=prefix, kv_seqlen=[prefix])

    def run() -> Output:
        args = (q[None], k[:, prefix:], v[:, prefix:], k[:, :prefix], v[:, :prefix], mask, shared)
        return finish(work, ops.tree_attention(*args)[0])

    return Ready(run, work.rows.order)


#: name -> baseline, in the order of the report.
GPU_BASELINES: dict[str, Baseline] = {
    "flash-attn": flash_attention,
    "FlashInfer cascade": flashinfer_cascade,
    "xformers tree": xformers_tree,
}


def _load(work: Workload, name: str) -> Any:
    """Return a module, or say why it cannot be used."""
    if work.case.dtype == "float32":
        raise Skipped("needs half precision")
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise Skipped(f"cannot be imported: {error}") from error


def _tokens_first(work: Workload) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return k, v [U, heads, d] and q [M, 3, d], contiguous and sorted."""
    k, v, q = work.sorted
    return (
        k.transpose(0, 1).contiguous(),
        v.transpose(0, 1).contiguous(),
        dimensions_first(q)[0].transpose(0, 1).contiguous(),
    )


def _depths(work: Workload) -> np.ndarray:
    """Return how deep each of the seen nodes hangs."""
    depth = np.zeros(len(work.tree), np.int64)
    for node, up in enumerate(work.tree.parent):
        depth[node] = 0 if up < 0 else depth[up] + 1
    return depth[work.rows.nodes]


def _level(work: Workload, level: int, first_page: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return the row bounds, page bounds, pages and last-page lengths of one level of the tree.

    Rows that have no node on this level are groups of their own, without pages.
    """
    rows = work.rows
    bounds, page_bounds, pages, last = [0], [0], [], []
    for s in np.flatnonzero(_depths(work) == level):
        if rows.begin[s] > bounds[-1]:
            bounds.append(int(rows.begin[s]))
            page_bounds.append(page_bounds[-1])
            last.append(0)
        own = np.arange(first_page[s], first_page[s + 1])
        pages.append(own)
        bounds.append(int(rows.end[s]))
        page_bounds.append(page_bounds[-1] + len(own))
        last.append(int((rows.ptr[s + 1] - rows.ptr[s] - 1) % PAGE + 1))
    if bounds[-1] < len(rows.order):
        bounds.append(len(rows.order))
        page_bounds.append(page_bounds[-1])
        last.append(0)
    return np.array(bounds), np.array(page_bounds), np.concatenate(pages), np.array(last)


def _int32(work: Workload, array: np.ndarray) -> torch.Tensor:
    return torch.as_tensor(np.asarray(array, np.int32), device=work.device)
