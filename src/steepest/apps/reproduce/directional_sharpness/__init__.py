"""The direction along which the loss falls furthest."""
