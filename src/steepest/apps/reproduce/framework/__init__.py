"""What all reproductions share: cells, claims, workers, and the folder that keeps them."""
