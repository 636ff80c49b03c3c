"""The geometry that each layer favours: the Euclidean and the spectral step held side by side."""
