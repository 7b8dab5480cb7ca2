"""Tools that keep the specification, its data files and the code in step; never shipped."""
