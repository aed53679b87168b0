"""One function an operation. The eager MindSpore version here defines it; device-specific ones are tested against it.

Nothing here broadcasts over a large tensor: on CPU, MindSpore keeps 16 bytes an element for every broadcast add or
multiply in a graph, for as long as the graph lives, and runs it several times slower than the same-shape form (2.7.2).
"""
