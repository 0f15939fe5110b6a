"""Preparing a network for 8 bits, before any runtime's own tool, and telling what 8 bits cost. Without torch."""
