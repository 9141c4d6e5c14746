"""Operations in the programs of contractions, which compile for as long as these are many.

A bound may only rise for a reason: XLA takes some ten milliseconds to compile a kernel for a
processor, and half a microsecond to call one.
"""

import re

import jax
import jax.numpy as jnp
import pytest

from tn4ml_plus.contraction import contract, log_norm_squared, pack
from tn4ml_plus.networks import MERA, MPS, TTN, Tree

CATERPILLAR = Tree(30, ((0, 1), *((30 + i, i + 2) for i in range(28))))
# Each node is of another kind than the one before.
ALTERNATING = Tree(30, ((0, 1), *((30 + i, i + 2)[:: 1 - 2 * (i % 2)] for i in range(28))))


def operations(network, name):
    """Number of operations of this name in the program of a value and its gradient."""
    packed, structure = pack(network)

    def total(packed, phi):
        return contract(packed, structure, phi).log_abs().sum()

    phi = jnp.ones((8, structure.nsites, structure.phys_dim))
    text = jax.jit(jax.value_and_grad(total)).lower(packed, phi).as_text()
    return text.count(f"stablehlo.{name}")


@pytest.mark.parametrize(
    "tree", [Tree.balanced(64), Tree.balanced(784), CATERPILLAR], ids=["64", "784", "caterpillar"]
)
def test_a_tree_is_a_loop_there_and_one_back_for_every_shape_of_nodes(tree):
    ttn = TTN.random(tree.nsites, tree=tree, key=jax.random.key(0))
    shapes = {core.shape for core in ttn.cores()[:-1]}
    assert len(shapes) == 3
    assert operations(ttn, "while") == 2 * len(shapes)


def test_cores_are_put_in_order_once_whatever_the_tree():
    ttn = TTN.random(30, tree=ALTERNATING, key=jax.random.key(0))
    # Not once for each of the loops, of which there are as many as nodes.
    assert operations(ttn, "while") > 2 * 20
    assert operations(ttn, "concatenate") < 20


@pytest.mark.parametrize(("nsites", "products", "rescalings"), [(16, 75, 18), (32, 150, 32)])
def test_like_steps_of_a_mera_are_one(nsites, products, rescalings):
    mera = MERA.random(nsites, bond_dim=4, n_outputs=3, key=jax.random.key(0))
    assert operations(mera, "dot_general") <= products
    # Each takes the exponents of largest moduli.
    assert operations(mera, "shift_right_logical") <= rescalings


def kernels_of_loops(function, *arguments):
    """Number of kernels that each loop of a compiled function calls in one round."""
    text = jax.jit(function).lower(*arguments).compile().as_text()
    blocks = dict(re.findall(r"^%?([\w.-]+) [^\n]*\{\n(.*?)^\}", text, re.DOTALL | re.MULTILINE))
    found = []
    for name in re.findall(r"body=%?([\w.-]+)", text):
        names = re.findall(r"= (?:\([^=]*?\)|\S+) ([\w-]+)\(", blocks[name])
        free = {"parameter", "constant", "get-tuple-element", "tuple", "bitcast"}
        found.append(sum(name not in free for name in names))
    return found


@pytest.mark.parametrize(
    ("value", "forward", "backward"),
    [
        (lambda packed, structure: contract(packed, structure, jnp.ones((8, 10, 2))), 11, 8),
        (log_norm_squared, 12, 10),
    ],
    ids=["amplitude", "norm"],
)
def test_a_site_of_a_chain_is_a_few_kernels(value, forward, backward):
    packed, structure = pack(MPS.random(10, bond_dim=4, key=jax.random.key(0)))

    def total(packed):
        found = value(packed, structure)
        return found if value is log_norm_squared else found.log_abs().sum()

    counts = kernels_of_loops(jax.value_and_grad(total), packed)
    # The arms, there and back.
    assert len(counts) == 4
    assert max(counts) <= forward
    assert sorted(counts)[1] <= backward
