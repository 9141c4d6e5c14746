"""Files of arrays and JSON, from which nothing is ever executed."""

from ._store import labels_from_json, labels_to_json, read, write
from ._tree import from_tree, to_tree

__all__ = ["from_tree", "labels_from_json", "labels_to_json", "read", "to_tree", "write"]
