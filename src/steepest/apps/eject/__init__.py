"""`steepest eject`: an optimizer of the table as one file that needs torch alone."""
