"""`python -m holdfast_conformance` is the command `holdfast`."""

from .cli import main

main(prog_name="holdfast")
