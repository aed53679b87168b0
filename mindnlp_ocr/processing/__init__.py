"""From what a user gives to what the network takes: pixels and token ids."""
