"""The main job: train a character-level GPT with several optimizers and compare them."""
