"""Mutants of spec/06-delivery.md."""
