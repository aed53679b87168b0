"""What runs the two networks on a device: MindSpore's own operators (the definition), our CPU operators, Ascend's."""
