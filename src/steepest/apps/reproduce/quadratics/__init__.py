"""Muon on simple quadratics: problems, optimizers, noise, and the figures drawn from them."""
