"""Does weight decay keep every matrix in the ball of the optimizer's map?"""
