"""What a user can get wrong about the data."""

from nas.errors import UsageError


class DataError(UsageError):
    """Says in one line what is wrong with the data, where, and how to mend it."""
