"""The operations of the networks. The eager MindSpore form of each is its definition; other forms are tested against it.

No operation here broadcasts over a large tensor: on a CPU, MindSpore 2.7.2 keeps 16 bytes per element for every broadcast
add or multiply in a graph until the graph is released, and runs it several times slower than with equal shapes.
"""
