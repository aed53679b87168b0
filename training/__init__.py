"""The recipe of the built-in checkpoint, in PyTorch. It imports nothing of the package, nor does the package import it."""
