"""What networks of the reproductions are trained on."""
