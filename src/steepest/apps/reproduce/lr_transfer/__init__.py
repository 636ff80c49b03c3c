"""Does the best learning rate stay where it is when a network becomes wider?"""
