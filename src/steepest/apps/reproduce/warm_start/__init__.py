"""Does the last step's factorisation help to compute the next polar factor?"""
