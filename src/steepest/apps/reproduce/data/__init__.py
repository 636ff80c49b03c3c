"""Data for the networks of the reproductions."""
