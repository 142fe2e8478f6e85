"""All errors that Thalweg raises on purpose.

    ThalwegError
    ├── ConfigError          a setting that is out of range or contradicts another
    │   └── MissingExtraError an optional package that is not installed
    ├── SchemaError          a table that lacks a needed column or does not hold flows
    ├── SourceError          input that cannot be opened or read
    ├── ModelError
    │   ├── NotFittedError   a detector scores before it is fitted or loaded
    │   └── ModelFormatError a model file that is foreign, truncated or of an unknown version
    └── SinkError            output that cannot be written

Each message names its subject (file and line, column, option) and the next step.
"""


class ThalwegError(Exception):
    """Base of every error that Thalweg raises for its user."""


class ConfigError(ThalwegError, ValueError):
    """A setting that is out of range or contradicts another; raised before any work is done."""


class MissingExtraError(ConfigError):
    """An optional package that is not installed; the message has the line to type."""


class SchemaError(ThalwegError, ValueError):
    """A table that lacks a needed column or does not hold flows."""


class SourceError(ThalwegError, OSError):
    """Input that cannot be opened or read: missing, empty, truncated, not flows."""


class ModelError(ThalwegError):
    """Base of the errors about a model."""


class NotFittedError(ModelError):
    """A detector was asked to score before it was fitted or loaded."""


class ModelFormatError(ModelError, ValueError):
    """A model file that is foreign, truncated, or of a format version that this program does not read."""


class SinkError(ThalwegError, OSError):
    """Output that cannot be written."""
