"""Every interleaving of the real client core and the real server core, within small bounds."""
