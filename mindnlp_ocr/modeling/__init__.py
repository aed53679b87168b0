"""The network as MindSpore Cells, written once for every device."""
