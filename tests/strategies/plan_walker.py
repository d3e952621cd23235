"""A cheap policy for planning puzzles: legal moves, some of them good, some taken back."""

from functools import lru_cache
from random import Random

from svip_search import CallablePolicy, Candidate
from svip_search.datasets.planning import FAMILIES, Follower, generate_plan


@lru_cache(maxsize=64)
def puzzles(families=("tower_of_hanoi", "water_jugs", "move_box"), moves=(3, 5), count=3, seed=5):
    return tuple(generate_plan(seed, i, families=list(families), moves=moves, pixels=64) for i in range(count))


def walker(plans, skill=0.3, back=0.0, max_steps=60):
    """A policy that takes a move of a shortest plan with probability ``skill``, any legal one otherwise."""
    known = {plan.question.id: plan for plan in plans}
    memory = {}  # the states of a plan after the steps that this has written

    def reached(plan, prefix):
        if (plan.question.id, prefix) not in memory:
            follower = Follower(plan)
            for one in prefix:
                follower.read(one)
            memory[plan.question.id, prefix] = follower.states
        return memory[plan.question.id, prefix]

    def step(plan, prefix, rng):
        family, task = FAMILIES[plan.family], plan.task
        readings = family.readings(task)
        if len(prefix) < len(readings):
            return readings[len(prefix)]
        states = reached(plan, prefix)
        state, depth = states[-1], len(states) - 1
        if family.ended(task, state):
            closing = family.closing(task, state, depth)
            return closing[sum(not s.startswith(("start", "goal", "back")) and " : " not in s for s in prefix)]
        moves = list(family.moves(task, state))
        if depth and (not moves or rng.random() < back):
            to = rng.randrange(depth)
            text = f"back to {to} : {family.show(task, states[to])}"
            memory[plan.question.id, (*prefix, text)] = states[: to + 1]
            return text
        left = plan.plans.left
        best = [m for m in moves if left.get(m[1], 10**6) == left.get(state, 0) - 1]
        action, after = rng.choice(best if best and rng.random() < skill else moves)
        text = f"{depth + 1} : {action} : {family.show(task, after)}"
        memory[plan.question.id, (*prefix, text)] = [*states, after]
        return text

    def propose(question, prefix, n, seed):
        rng = Random(seed)
        texts = [step(known[question.id], prefix, rng) for _ in range(n)]
        return [Candidate(t, -1.0, 8, "stop" if t.startswith("answer") else "step") for t in texts]

    return CallablePolicy(propose, max_steps=max_steps)
