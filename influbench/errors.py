"""The one error that is the user's to fix: printed as one line, exit code 2."""


class UserError(ValueError):
    """A mistake in what the user gave us.

    The message is a single line that says what was expected, what came, where, and what to do.
    Everything that is not a ``UserError`` is our own bug and ends with exit code 1.
    """
