"""Fault injection: workers and servers that are stopped, cut off and killed, and what must hold after it."""
