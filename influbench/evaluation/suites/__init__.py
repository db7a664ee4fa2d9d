"""One suite of the evaluation a file."""
