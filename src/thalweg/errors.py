"""Everything Thalweg raises on purpose.

    ThalwegError
    ├── ConfigError          a setting that cannot be meant
    ├── SchemaError          a table without a needed column, or of another kind
    ├── SourceError          input that cannot be opened or read at all
    ├── ModelError
    │   ├── NotFittedError   scoring before fit or load
    │   └── ModelFormatError a model file that is foreign, truncated or of another version
    └── SinkError            output that cannot be written

Each message names its subject (file and line, column, option) and the next step.
"""


class ThalwegError(Exception):
    """Base of every error that Thalweg raises for its user."""


class ConfigError(ThalwegError, ValueError):
    """A setting that cannot be meant; raised before any work is done."""


class SchemaError(ThalwegError, ValueError):
    """A table that lacks a needed column or holds something else than flows."""


class SourceError(ThalwegError, OSError):
    """Input that cannot be opened or read: missing, empty, truncated, not flows."""


class ModelError(ThalwegError):
    """Something is wrong with a model."""


class NotFittedError(ModelError):
    """Scoring was asked of a detector that has not been fitted or loaded."""


class ModelFormatError(ModelError, ValueError):
    """A model file that is foreign, truncated, or of another format version."""


class SinkError(ThalwegError, OSError):
    """Output that cannot be written."""
