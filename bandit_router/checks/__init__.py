"""The contracts of `Policy`, `PosteriorStore` and `FeatureExtractor`, executable: run them on your own.

Each function yields small checks. A check is called without arguments, and raises AssertionError with a
plain sentence where the contract is broken. Any test runner will do::

    @pytest.mark.parametrize("check", list(policy_checks(MyPolicy)), ids=str)
    def test_my_policy(check):
        check()

Examples
--------
>>> from bandit_router.policies import Greedy
>>> for check in policy_checks(Greedy):
...     check()
"""

from __future__ import annotations

from bandit_router.checks.check import Check
from bandit_router.checks.features import features_checks
from bandit_router.checks.policies import policy_checks
from bandit_router.checks.stores import store_checks

__all__ = ["Check", "features_checks", "policy_checks", "store_checks"]
