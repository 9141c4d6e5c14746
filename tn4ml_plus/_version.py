"""The version of the library, for its files as well."""

__version__ = "0.1.0"
