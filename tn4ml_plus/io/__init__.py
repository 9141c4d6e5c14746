"""Files of arrays and JSON, from which nothing is ever executed."""

from ._files import checked, read, write
from ._trees import from_tree, labels_from_json, labels_to_json, to_tree

__all__ = ["checked", "from_tree", "labels_from_json", "labels_to_json", "read", "to_tree", "write"]
