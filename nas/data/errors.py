"""The error for data that a user must fix."""

from nas.errors import UsageError


class DataError(UsageError):
    """Says in one line what is wrong with the data, where, and how to fix it."""
