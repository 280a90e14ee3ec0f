"""Training: one loop for every part, its settings, and the recipes that name both."""
