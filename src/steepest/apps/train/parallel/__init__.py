"""A run on several processes: who they are, how they share it, what they save."""
