"""Graphs as MindIR: written, and run without the Python network."""
