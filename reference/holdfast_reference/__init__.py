"""The Holdfast reference server and client."""
