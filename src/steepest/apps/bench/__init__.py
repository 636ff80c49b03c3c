"""Benchmarks: polar methods and whole optimizer steps on the matrices of real models."""
