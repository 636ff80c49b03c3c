"""Singular values: of one matrix in a few numbers, and of every matrix of a model."""
