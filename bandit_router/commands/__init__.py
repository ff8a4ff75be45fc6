"""The commands of ``bandit-router``, one file each."""
