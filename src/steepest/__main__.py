"""`python -m steepest`: the command line."""

from steepest.apps.cli import main

if __name__ == "__main__":
    main()
