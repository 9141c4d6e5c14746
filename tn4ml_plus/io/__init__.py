"""Files of arrays and JSON, from which nothing is ever executed."""

from ._store import from_tree, labels_from_json, labels_to_json, read, to_tree, write

__all__ = ["from_tree", "labels_from_json", "labels_to_json", "read", "to_tree", "write"]
