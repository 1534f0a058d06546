"""Benchmarks: what the README's figures were measured with. Not installed with the package, not run by the tests."""
