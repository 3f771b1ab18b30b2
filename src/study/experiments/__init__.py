"""The sweeps behind the heavier figures, one module each; ``make results`` runs them."""
