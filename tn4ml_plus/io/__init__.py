"""Files that hold arrays and JSON, and that execute nothing when read."""

from ._store import labels_from_json, labels_to_json, read, write

__all__ = ["labels_from_json", "labels_to_json", "read", "write"]
