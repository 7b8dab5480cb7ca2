"""Mutants of spec/05-subscriptions.md."""
