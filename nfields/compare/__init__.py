"""Runs side by side: collected from folders, or trained at matched budgets; table and plots."""
