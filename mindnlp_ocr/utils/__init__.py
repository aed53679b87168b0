"""Documented import paths of code that is defined elsewhere."""
