"""Backends that run the networks on a device: MindSpore's operators (the reference), our CPU operators, Ascend's."""
