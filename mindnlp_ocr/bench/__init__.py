"""Code shared by the self-test and the benchmarks."""
