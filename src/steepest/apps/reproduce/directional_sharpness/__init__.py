"""Along which direction does the loss fall furthest?"""
