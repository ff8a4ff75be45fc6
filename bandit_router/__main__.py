"""``python -m bandit_router``."""

from bandit_router.cli import main

main()
