"""The Holdfast conformance suite."""
