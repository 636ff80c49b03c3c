"""`steepest compare`: every optimizer of `steepest train`, tuned with one budget, on two tasks."""
