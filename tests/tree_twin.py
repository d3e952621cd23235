"""The search tree in plain Python, recomputing everything from scratch: slow, and easy to believe."""

from __future__ import annotations

import math

import numpy as np

OPEN, EXPANDED, TERMINAL, FAILED, EXHAUSTED = range(5)


class TreeTwin:
    def __init__(self):
        self.parent, self.prior, self.status = [-1], [1.0], [OPEN]
        self.visits, self.virtual_visits, self.value_sum = [0], [0], [0.0]
        self.selected = set()

    def children(self, node):
        return [i for i, p in enumerate(self.parent) if p == node]

    def path(self, node):
        nodes = []
        while node >= 0:
            nodes.append(node)
            node = self.parent[node]
        return nodes[::-1]

    def add_children(self, parent, priors):
        first = len(self.parent)
        for prior in priors:
            self.parent.append(parent)
            self.prior.append(float(np.float32(prior)))
            self.status.append(OPEN)
            self.visits.append(0)
            self.virtual_visits.append(0)
            self.value_sum.append(0.0)
        self._change(parent, EXPANDED)
        return first

    def available(self, node):
        if self.status[node] == OPEN:
            return self.virtual_visits[node] == 0
        return self.status[node] == EXPANDED and any(self.available(c) for c in self.children(node))

    def select(self, c, rule, k):
        leaves = []
        while len(leaves) < k and self.available(0):
            leaf = self._descend(c, rule)
            for node in self.path(leaf):
                self.virtual_visits[node] += 1
            self.selected.add(leaf)
            leaves.append(leaf)
        return leaves

    def _descend(self, c, rule):
        node, q_parent = 0, 0.0
        while self.status[node] == EXPANDED:
            parent_n = self.visits[node] + self.virtual_visits[node]
            q_parent = self.value_sum[node] / parent_n if parent_n else q_parent
            scored = [
                (self._score(child, c, rule, max(parent_n, 1), q_parent), -child)
                for child in self.children(node)
                if self.available(child)
            ]
            node = -max(scored)[1]
        return node

    def _score(self, child, c, rule, parent_n, q_parent):
        n = self.visits[child] + self.virtual_visits[child]
        q = self.value_sum[child] / n if n else q_parent
        if rule == "puct":
            return q + c * math.sqrt(parent_n) * self.prior[child] / (1 + n)
        return q + c * math.sqrt(math.log(parent_n) / n) if n else math.inf

    def backup(self, nodes, values):
        for node, value in zip(nodes, values, strict=True):
            for n in self.path(node):
                self.visits[n] += 1
                self.value_sum[n] += value

    def hold(self, nodes):
        for node in nodes:
            self.selected.add(node)
            for n in self.path(node):
                self.virtual_visits[n] += 1

    def release(self, nodes):
        for node in nodes:
            self.selected.remove(node)
            for n in self.path(node):
                self.virtual_visits[n] -= 1

    def set_status(self, nodes, status):
        for node in nodes:
            self._change(node, status)

    def _finished(self, node):
        return self.status[node] >= TERMINAL

    def _change(self, node, status):
        """Set the status, then settle each ancestor that the change finished or reopened."""
        was_finished = self._finished(node)
        done_below = all(self._finished(c) for c in self.children(node))
        self.status[node] = EXHAUSTED if status == EXPANDED and done_below else status
        parent = self.parent[node]
        if parent < 0 or was_finished == self._finished(node):
            return
        if self.status[parent] == EXPANDED and all(self._finished(c) for c in self.children(parent)):
            self._change(parent, EXHAUSTED)
        elif self.status[parent] == EXHAUSTED and was_finished:
            self._change(parent, EXPANDED)
