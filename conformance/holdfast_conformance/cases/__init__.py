"""The checks, one module for each area of the specification. How to write one: `README.md` beside this
file.
"""
