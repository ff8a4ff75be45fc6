"""Our defaults beside published bandits, each in an environment of its own."""
