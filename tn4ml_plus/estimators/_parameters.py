"""Parameters that are objects: their fields as parameters, and clones of given networks."""

import copy
import dataclasses

import quimb.tensor as qtn
from sklearn.base import BaseEstimator


class NestedParameters(BaseEstimator):
    """scikit-learn's parameters, and as ``trainer__decay`` the fields of objects among them."""

    def get_params(self, deep=True):
        """Parameters; with deep, the fields of objects among them too, as ``trainer__decay``."""
        params = super().get_params(deep=False)
        return _with_fields(params) if deep else params

    def set_params(self, **params):
        """Set parameters, or with ``trainer__decay=...`` a field of an object among them."""
        super().set_params(**{name: v for name, v in params.items() if "__" not in name})
        for name in (name for name in params if "__" in name):
            known = self.get_params()
            outer, _, field = name.rpartition("__")
            if name not in known:
                fields = [n.removeprefix(f"{outer}__") for n in known if n.startswith(f"{outer}__")]
                have = f"its fields are {', '.join(fields)}" if fields else "it has no fields"
                raise ValueError(
                    f"Invalid parameter {name!r} for {type(self).__name__}: {outer} is "
                    f"{known.get(outer)!r} and {have}. Pass an object that has the field {field}."
                )
            changed = dataclasses.replace(known[outer], **{field: params[name]})
            self.set_params(**{outer: changed})
        return self

    def __sklearn_clone__(self):
        # scikit-learn would take quimb's `get_params`, which is about arrays, for its own.
        bare, network = copy.copy(self), getattr(self, "network", None)
        if isinstance(network, qtn.TensorNetwork):
            bare.network = "mps"
        clone = super(NestedParameters, bare).__sklearn_clone__()
        if isinstance(network, qtn.TensorNetwork):
            clone.network = network.copy()
        return clone


def _with_fields(params):
    """The parameters and, as ``outer__field``, the fields of objects among them, at any depth."""
    found = dict(params)
    for name, value in params.items():
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = dataclasses.fields(value)
            found |= _with_fields({f"{name}__{f.name}": getattr(value, f.name) for f in fields})
    return found
