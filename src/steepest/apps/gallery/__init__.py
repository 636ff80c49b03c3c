"""Pictures of norms and duality, drawn from the library's own norm objects."""
