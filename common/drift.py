"""What both sides compute in the methods for unlike hospitals: SCAFFOLD's control variates and FedNova's weight of steps.

A hospital sends its model and how many steps it made; the coordinator derives the rest and keeps it, so nothing about it can be
claimed, and an answer that was dropped has changed nothing.
Arrays go by the names of `Model.arrays`: weight, bias, tuned.<name>; all float32.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np

from common.head import Float32
from common.job import Job
from common.methods import LocalTraining
from common.model import TUNED

Arrays = Mapping[str, Float32]


def backbone_lr(job: Job, server_round: int) -> float:
    """Learning rate of the backbone's part in a round, counted from 1.

    Source: Loshchilov and Hutter 2017, arXiv 1608.03983, equation 5, without restarts, one step a round.
    """
    lr = job.tune.lr or 0.0
    if job.tune.schedule == "constant":
        return lr
    return lr * 0.5 * (1 + math.cos(math.pi * (server_round - 1) / job.method.rounds))


def learning_rates(job: Job, server_round: int) -> Callable[[str], float]:
    """The learning rate of each array in a round."""
    head, backbone = job.method.local.lr, backbone_lr(job, server_round)
    return lambda name: backbone if name.startswith(TUNED) else head


def own_control(
    before: Arrays, after: Arrays, correction: Arrays, steps: int, lr_of: Callable[[str], float]
) -> dict[str, Float32]:
    """c_k after a round: the mean gradient on the way from x to y_k, (x - y_k) / (steps lr) - (c - c_k).

    correction: c - c_k, which was added to every gradient. lr_of: learning rate of an array.
    Source: Karimireddy et al. 2020, arXiv 1910.06378, algorithm 1, lines 10 and 12, option II.
    """
    return {
        name: ((array - after[name]) / np.float32(steps * lr_of(name)) - correction[name]).astype(np.float32)
        for name, array in before.items()
    }


def local_norm(local: LocalTraining, steps: int) -> float:
    """How many plain gradient steps `steps` steps with momentum weigh: the sum of the weights that their gradients get.

    Source: Wang et al. 2020, arXiv 2007.07481, section 4.1, the norm of a_k.
    """
    momentum = local.momentum
    return (steps - momentum * (1 - momentum**steps) / (1 - momentum)) / (1 - momentum)
