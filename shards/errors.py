"""The one exception that users see."""


class FlickerError(Exception):
    """A fault the user can mend, told in one line: what was wrong, where (file, row, key), what to do.

    The commands print it without a traceback and exit with status 1.
    """


class UsageError(FlickerError):
    """A wrong command line or config (unknown key, value out of range): the commands exit with status 2."""
