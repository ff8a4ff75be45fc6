"""Pick a language model for every request, and learn from what users and judges say."""

from bandit_router.errors import BanditRouterError
from bandit_router.events import Decision, Feedback, Model, Outcome, Reward
from bandit_router.policies import (
    EpsilonGreedy,
    Greedy,
    InverseGapWeighting,
    LinUCB,
    Policy,
    ThompsonSampling,
    Uniform,
)
from bandit_router.preference import Preference
from bandit_router.router import Router

__version__ = "0.1.0"
