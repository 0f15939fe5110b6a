"""Models for other runtimes, one module for each target; nothing is written that answers otherwise."""
