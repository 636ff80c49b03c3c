"""`steepest diagnose`: what a training has left behind, as one page to look at."""
