"""A monitor of a training: what each step does to each layer, and warnings in words."""
