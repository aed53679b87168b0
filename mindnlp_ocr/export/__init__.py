"""Export of graphs as MindIR, and their execution without the Python network."""
