"""Everything that reproductions share: cells, claims, workers, and the folder that keeps them."""
