"""What must hold for every strategy, as functions that its tests call with a configuration."""

import dataclasses
from collections import Counter
from random import Random

from svip_search import Candidate, Evaluate, Question
from svip_search.testing import FaultyPolicy, FaultyReward, HashPolicy, HashReward, answer_request, play

QUESTION = Question("Which?", options=["red", "green", "blue"])
POLICY_FAULTS = ["raises", "empty", "too_many", "nan", "wrong_type", "wrong_length"]
REWARD_FAULTS = ["raises", "wrong_shape", "out_of_range", "nan", "wrong_type", "wrong_length"]
ANY_OUTCOME = [None, "text", 7, [], [1, 2, 3], RuntimeError("down"), {"a": 1}]


def outcome_of(search):
    """Everything that has to be the same."""
    result = search.result()
    return search.tree.to_json(), result.answer, result.votes, search.degraded, repr(result.trajectories)


def check_order_independence(config, orders=6):
    """Batching, the order of outcomes and pickling at every moment do not change the tree."""
    for seed in range(2):
        plain = play(config.start(QUESTION, seed), HashPolicy(), HashReward(), limit=1000)
        for order in range(orders):
            other = config.start(QUESTION, seed)
            other = play(other, HashPolicy(), HashReward(), limit=1 + order, rng=Random(order), copy=order % 2 == 1)
            assert outcome_of(other) == outcome_of(plain)


def check_policy_faults(config):
    """A policy's fault degrades the search the same way in any order, and never ends it."""
    for fault in POLICY_FAULTS:
        policy = FaultyPolicy(HashPolicy(), fault, rate=0.4)
        plain = play(config.start(QUESTION), policy, HashReward(), limit=1)
        other = play(config.start(QUESTION), policy, HashReward(), limit=1, rng=Random(1))
        assert outcome_of(plain) == outcome_of(other)
        total = play(config.start(QUESTION), FaultyPolicy(HashPolicy(), fault), HashReward(), limit=1)
        assert total.degraded
        assert all("policy" in entry for entry in total.degraded)
        total.result()


def check_reward_faults(config):
    """A reward model's fault degrades the search the same way in any order, and never ends it."""
    for fault in REWARD_FAULTS:
        reward = FaultyReward(HashReward(), fault, rate=0.4)
        plain = play(config.start(QUESTION), HashPolicy(), reward, limit=1)
        other = play(config.start(QUESTION), HashPolicy(), reward, limit=1, rng=Random(1))
        assert outcome_of(plain) == outcome_of(other)
        total = play(config.start(QUESTION), HashPolicy(), FaultyReward(HashReward(), fault), limit=1)
        assert bool(total.degraded) == config.needs_reward
        assert all("reward model" in entry for entry in total.degraded)


def check_stop_anywhere(config, most=12):
    """A search that is stopped keeps what it was told, gives back virtual visits, and can be completed."""
    for stop_after in range(most):
        search = config.start(QUESTION)
        for _ in range(stop_after):
            for request in search.ask(2):
                search.tell(request.id, answer_request(search, request, HashPolicy(), HashReward()))
        search.stop("tokens")
        assert search.done
        assert (search.tree.arena.virtual_visits == 0).all()
        if not search.finished:
            assert search.complete()
            play(search, HashPolicy(), HashReward())
            assert search.result().answer in QUESTION.options


def check_any_outcome(config):
    """Whatever models return, the search ends."""
    for outcome in ANY_OUTCOME:
        search = config.start(QUESTION)
        while not search.done:
            for request in search.ask(3):
                search.tell(request.id, outcome)
        assert search.degraded
        assert search.result().answer is None


def check_depth_limit(config):
    """Nothing grows beyond ``max_depth``; all trajectories end there."""
    limited = dataclasses.replace(config, max_depth=2)
    search = play(limited.start(QUESTION), HashPolicy(depth=9), HashReward())
    assert search.tree.arena.depth.max() <= 2
    assert search.finished > 0
    assert all(len(t.steps) <= 2 for t in search.result().trajectories)


def check_protocol(config):
    """All of the above."""
    check_order_independence(config)
    check_policy_faults(config)
    check_reward_faults(config)
    check_stop_anywhere(config)
    check_any_outcome(config)
    check_depth_limit(config)


class Scripted:
    """Returns the texts that a table has for the prefix, the first n of them; texts with an answer end."""

    def __init__(self, **table):
        self.table = table

    def propose(self, requests):
        return [self._one(r) for r in requests]

    def _one(self, request):
        texts = self.table.get(request.prefix[-1] if request.prefix else "root", ["Answer: red"] * request.n)
        return [(Candidate(t, finish_reason="stop" if "Answer" in t else "step"),) for t in texts[: request.n]]


def candidates_by_depth(config, policy, reward, seed=0):
    """Play a search; return the candidates asked of each node, by depth and the step's text."""
    search = config.start(QUESTION, seed)
    asked = []
    while not search.done:
        requests = search.ask()
        if not isinstance(requests[0], Evaluate):
            asked.append(Counter())
            for node, n in [(node, r.n) for r in requests for node in r.nodes]:
                asked[-1][search.tree.text[node]] += n
        for request in requests:
            search.tell(request.id, answer_request(search, request, policy, reward))
    return asked, search
