"""The loss at one point: its gradient, its curvature, and how far it falls along a direction."""
