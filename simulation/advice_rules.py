"""The rules of advice in the order in which they are asked; each sees what those before it decided.

A rule more is one function `(Situation, Plan) -> Iterator[Recommendation]`, and its row here.
"""

from simulation import advice_evaluation, advice_features, advice_method, advice_network, advice_tuning
from simulation.advice import Recommendation, Rule, plan_of
from simulation.situation import Situation

RULES: tuple[Rule, ...] = (
    advice_network.backbone,
    advice_network.image_size,
    advice_tuning.tuning,
    advice_tuning.batch_norm,
    advice_features.mirror,
    advice_features.stages,
    advice_features.projection,
    advice_method.method,
    advice_method.settings,
    advice_method.class_weights,
    advice_method.against,
    advice_evaluation.validation,
    advice_evaluation.select_by,
    advice_evaluation.intervals,
    advice_evaluation.quorum,
    advice_evaluation.deadline,
    advice_evaluation.disk,
)


def advise(situation: Situation) -> tuple[Recommendation, ...]:
    """All advice for a situation: equal situations, equal advice."""
    plan, found = plan_of(situation), list[Recommendation]()
    for rule in RULES:
        for one in rule(situation, plan):
            found.append(one)
            plan = plan.after(one)
    return tuple(found)
