"""A monitor of a run: what each step does to each layer, and warnings in words."""
