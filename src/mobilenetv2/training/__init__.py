"""The training loop, and what it needs: recipes, optimizers, checkpoints, reports."""
