"""What the self-test and the benchmarks share."""
