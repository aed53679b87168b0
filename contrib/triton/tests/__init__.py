import os

# Triton reads this when it is imported, and MindSpore imports Triton wherever it is installed: no test may come first.
os.environ["TRITON_INTERPRET"] = "1"
