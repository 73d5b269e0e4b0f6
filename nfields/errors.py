"""The errors a user can cause; each message says what, where, what was found, what is allowed."""


class ConfigError(ValueError):
    """A wrong option: its full name, its value, what is allowed and the usual fix."""


class DataError(ValueError):
    """A wrong file: its path, what was found in it, what is allowed and the usual fix."""
