"""The doors through which feedback comes."""
