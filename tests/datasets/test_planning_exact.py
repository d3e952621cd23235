"""Planning puzzles against brute force that shares no code with them, and against the real ones."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable
from functools import lru_cache
from itertools import pairwise, permutations, product
from typing import Any

import networkx as nx
import numpy as np
import pytest
from plan_cases import REAL, each_family, plan, plans, real, real_cells, solve

from svip_search.datasets.planning import FAMILIES, grid_of, phrases, vocabulary

RANDOM = 20  # puzzles a family, on average of a hundredth of a second


def numbers(text: str) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", text)]


def search(start: Any, after: Callable[[Any], Iterable[tuple[Any, int]]], done: Callable[[Any], bool]) -> int:
    """Return the least cost from the start to a state that is done, where steps cost 0 or 1."""
    queue, found = deque([(start, 0)]), {start: 0}
    while queue:
        state, cost = queue.popleft()
        if done(state):
            return cost
        for other, step in after(state):
            if cost + step < found.get(other, 10**6):
                found[other] = cost + step
                (queue.append if step else queue.appendleft)((other, cost + step))
    raise AssertionError("there is no plan")


# ---- brute force: the answer, and the number of moves of the shortest chain ----------------------------


@lru_cache(maxsize=8)
def hanoi_graph(disks: int) -> nx.Graph:
    """Nodes are the rods of the disks, the smallest first."""
    graph = nx.Graph()
    for rods in product(range(3), repeat=disks):
        for disk, to in product(range(disks), range(3)):
            if not {rods[disk], to} & set(rods[:disk]) and rods[disk] != to:
                graph.add_edge(rods, (*rods[:disk], to, *rods[disk + 1 :]))
    return graph


def tower_of_hanoi(question: str, cells: np.ndarray) -> tuple[int, int]:
    disks = cells.shape[0] // 2
    start, end = (
        tuple(int(np.argwhere(half == str(d))[0, 1]) for d in range(1, disks + 1)) for half in np.split(cells, 2)
    )
    moves = nx.bidirectional_shortest_path(hanoi_graph(disks), start, end)
    return len(moves) - 1, len(moves) - 1


def water_jugs(question: str, cells: np.ndarray) -> tuple[int, int]:
    full, goal = (numbers(found) for found in re.findall(r"of ([\d, ]+) litres", question.replace("capacities ", "")))

    def pour(state: tuple[int, ...]) -> Iterable[tuple[tuple[int, ...], int]]:
        for a, b in permutations(range(len(full)), 2):
            if poured := min(state[a], full[b] - state[b]):
                after = list(state)
                after[a] -= poured
                after[b] += poured
                yield tuple(after), 1

    length = search(tuple(map(int, cells[0])), pour, lambda state: list(state) == goal)
    return length, length


def checker_move(question: str, cells: np.ndarray) -> tuple[int, int]:
    start, end = ("".join(word[0] for word in row) for row in cells)

    def after(row: str) -> Iterable[tuple[str, int]]:
        for old, new in (("g.", ".g"), ("gr.", ".rg"), (".r", "r."), (".gr", "rg.")):
            if old in row:
                yield row.replace(old, new), 1

    length = search(start, after, lambda row: row == end)
    return length, length


def maze(question: str, cells: np.ndarray) -> tuple[int, int]:
    graph = nx.grid_2d_graph(*cells.shape)
    graph.remove_nodes_from([tuple(place) for place in np.argwhere(cells == "#")])
    entry, out = (tuple(np.argwhere(cells == word)[0]) for word in ("entry", "exit"))
    path = np.array(nx.shortest_path(graph, entry, out))
    ways = np.diff(path, axis=0)
    turns = [int(a[0] * b[1] - a[1] * b[0]) for a, b in pairwise(ways)]  # rows grow downwards: 1 is to the left
    left, right = turns.count(1), turns.count(-1)
    asked = {"many cells": len(path), "of left turns": left, "of right turns": right, "combined": left + right}
    (answer,) = [n for words, n in asked.items() if words in question]
    return answer, left + right + 1


def move_box(question: str, cells: np.ndarray) -> tuple[int, int]:
    box, player, flag = (tuple(map(int, np.argwhere(cells == w)[0])) for w in ("box", "player", "flag"))

    def after(state: Any) -> Iterable[tuple[Any, int]]:
        (row, column), (r, c) = state
        for d, a in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            to, behind = (r + d, c + a), (r + 2 * d, c + 2 * a)
            if to == (row, column) and cells[behind] != "#":
                yield (behind, to), 1
            elif to != (row, column) and cells[to] != "#":
                yield ((row, column), to), 0

    length = search((box, player), after, lambda state: state[0] == flag)
    return length, length


def n_queens(question: str, cells: np.ndarray) -> tuple[int, int]:
    side = len(cells)
    given = {int(r): int(c) for r, c in np.argwhere(cells == "queen")}
    rows = [r for r in range(side) if r not in given]
    found = set()
    for columns in permutations(sorted(set(range(side)) - set(given.values()))):
        board = given | dict(zip(rows, columns, strict=True))
        if len({r + c for r, c in board.items()}) == len({r - c for r, c in board.items()}) == side:
            found.add(rows[-1] - rows[0] + abs(board[rows[0]] - board[rows[-1]]))
    (answer,) = found  # all ways to place them answer alike
    return answer, len(rows)


def rotting_kiwi(question: str, cells: np.ndarray) -> tuple[int, int]:
    minutes = 0
    while (cells == "fresh").any():
        rotten = np.pad(cells == "rotten", 1)
        beside = rotten[2:, 1:-1] | rotten[:-2, 1:-1] | rotten[1:-1, 2:] | rotten[1:-1, :-2]
        cells = np.where(beside & (cells == "fresh"), "rotten", cells)
        minutes += 1
        assert minutes < 50
    return minutes, minutes


def number_slide(question: str, cells: np.ndarray) -> tuple[int, int]:
    moves = numbers(question.split("perform exactly")[1])[0]
    ways = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}

    def slide(board: np.ndarray, way: str) -> np.ndarray | None:
        at = np.argwhere(board == 0)[0]
        to = at + ways[way]
        if to.min() < 0 or to.max() >= len(board):
            return None
        after = board.copy()
        after[tuple(at)], after[tuple(to)] = board[tuple(to)], 0
        return after

    boards = [np.where(cells == ".", "0", cells).astype(int)]
    sequence = re.search(r"sequence: ([a-z, ]+)\.", question)
    for i in range(moves):
        here = [sequence[1].split(", ")[i]] if sequence else list(ways)
        boards = [after for board in boards for way in here if (after := slide(board, way)) is not None]
    if "How many unique" in question:
        return len({board.tobytes() for board in boards}), moves
    if sequence:
        (board,), (row, column) = boards, np.argwhere(boards[0] == 0)[0]
        line = board[row] if "in the row" in question or "of the row" in question else board[:, column]
        return int({"minimum": line[line > 0].min(), "maximum": line.max(), "sum": line.sum()}[
            re.search(r"What is the (\w+)", question)[1]
        ]), moves  # fmt: skip
    extreme, place = re.search(r"the (minimum|maximum) sum .* the (\w+) most", question).groups()
    lines = {"top": (0,), "bottom": (-1,), "left": (slice(None), 0), "right": (slice(None), -1)}
    return int({"minimum": min, "maximum": max}[extreme](board[lines[place]].sum() for board in boards)), moves


BRUTE = {
    f.__name__: f
    for f in (
        tower_of_hanoi, water_jugs, checker_move, maze, move_box, n_queens, rotting_kiwi, number_slide,
    )
}  # fmt: skip


def brute(question: str, cells: tuple[str, ...]) -> tuple[int, int]:
    grid = grid_of(question)
    return BRUTE[grid.family](question, np.array(cells, dtype=str).reshape(grid.rows, grid.columns))


# ---- generated puzzles ---------------------------------------------------------------------------------


@each_family
def test_answers_and_lengths_are_those_of_brute_force(family: str) -> None:
    for index in range(RANDOM):
        puzzle = plan(family, index)
        assert (int(puzzle.answer), puzzle.length) == brute(puzzle.question.text, puzzle.cells), index


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"number_slide", "n_queens"}))
def test_long_plans_are_those_of_brute_force_too(family: str) -> None:
    for index in range(3):
        puzzle = plan(family, index, (9, 16))
        assert puzzle.length > 5
        assert (int(puzzle.answer), puzzle.length) == brute(puzzle.question.text, puzzle.cells), index


def test_boards_are_counted_as_they_are() -> None:
    """Every place of the open position, and every number of moves that is allowed."""
    template = FAMILIES["number_slide"].templates[4]
    for moves, hole in product(range(1, 6), (0, 1, 4)):
        tiles = list("12345678")
        cells = (*tiles[:hole], ".", *tiles[hole:])
        question = template.format(3, 3, 8, moves, "s")
        assert int(solve(question, cells)[-1].split()[-1]) == brute(question, cells)[0], (moves, hole)


def test_what_is_left_of_a_tower_is_right_everywhere() -> None:
    puzzle = next(p for p in (plan("tower_of_hanoi", i) for i in range(50)) if p.grid.rows == 8)
    true = nx.single_source_shortest_path_length(hanoi_graph(4), tuple(rod - 1 for rod in puzzle.task.goal))
    left = puzzle.plans.left
    assert len(left) == len(true) == 81
    for state, moves in left.items():
        assert moves == true[tuple(rod - 1 for rod in state)]


# ---- real puzzles --------------------------------------------------------------------------------------

needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="the real puzzles are not here")


@needs_real
@each_family
def test_real_puzzles_are_solved_from_their_true_cells(family: str) -> None:
    records = [record for name, record in real() if name == family]
    assert len(records) == 50
    for i, record in enumerate(records):
        question, cells = record["question"], real_cells(family, record["solution"])
        grid = grid_of(question)
        assert grid is not None
        assert (grid.family, len(grid)) == (family, len(cells)), i
        assert solve(question, cells)[-1] == f"answer : {record['answer']}", i
        answer, length = brute(question, cells)
        assert (str(answer), length) == (str(record["answer"]), plans(question, cells).length), i


@needs_real
def test_words_of_real_questions_are_known() -> None:
    """What the phrases leave of a question is what it says of its own puzzle, and a handful of small words."""
    known = set(vocabulary())
    for family, record in real():
        text = record["question"].lower()
        for phrase in phrases():
            text = text.replace(phrase, " ")
        words = re.findall(r"\d+|[^\W\d_]+|[^\w\s]", text)
        assert set(words) <= known, (family, set(words) - known)
        assert len(words) <= 30, (family, words)
