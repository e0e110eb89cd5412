"""The rules of advice in the order in which they are asked; each sees what those before it decided.

A rule more is one function `(Situation, Plan) -> Iterator[Recommendation]`, and its row here.
"""

from simulation.advice import evaluation, features, method, network, tuning
from simulation.advice.recommendation import Recommendation, Rule, plan_of
from simulation.advice.situation import Situation

RULES: tuple[Rule, ...] = (
    network.backbone,
    network.image_size,
    tuning.tuning,
    tuning.batch_norm,
    features.mirror,
    features.stages,
    features.projection,
    method.method,
    method.settings,
    method.class_weights,
    method.against,
    evaluation.validation,
    evaluation.select_by,
    evaluation.intervals,
    evaluation.quorum,
    evaluation.deadline,
    evaluation.disk,
)


def advise(situation: Situation) -> tuple[Recommendation, ...]:
    """All advice for a situation: equal situations, equal advice."""
    plan, found = plan_of(situation), list[Recommendation]()
    for rule in RULES:
        for one in rule(situation, plan):
            found.append(one)
            plan = plan.after(one)
    return tuple(found)
