"""`steepest diagnose`: what a run has left behind, as one page to look at."""
