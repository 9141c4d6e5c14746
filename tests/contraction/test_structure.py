"""What every packed network can do, and that networks are packed as what they have become."""

import dataclasses
import inspect

import jax
import numpy as np
import pytest
import quimb.tensor as qtn
from short_products import short_products_of

from tn4ml_plus import contraction
from tn4ml_plus._registry import from_json, lookup, names, to_json
from tn4ml_plus.contraction import (
    BornDensity,
    SquaredNorm,
    Structure,
    pack,
    transform,
    unpack,
)
from tn4ml_plus.initializers import Identity, Noiseless, RandomNormal
from tn4ml_plus.networks import (
    MERA,
    MPO,
    MPS,
    SMPO,
    TTN,
    LayeredMPS,
    MPSSpec,
    Network,
    NetworkSpec,
    Tree,
    TTNSpec,
    as_network,
)

contract = jax.jit(contraction.contract, static_argnums=1)
log_norm_squared = jax.jit(contraction.log_norm_squared, static_argnums=1)

KEY = jax.random.key(0)
OPTIONS = {"bond_dim": 2, "initializer": Identity(std=0.3), "key": KEY}


def generic():
    mps = MPS.random(4, n_outputs=3, output_std=1.0, **OPTIONS)
    return as_network(mps, mps.output_inds)


# One of every registered structure at least; the name of the structure comes first. Topologies of
# the same name as their structure are found by themselves.
BY_HAND = {
    "chain": lambda: MPS.random(4, n_outputs=3, output_std=1.0, **OPTIONS),
    "chain, ring": lambda: MPS.random(4, n_outputs=3, output_std=1.0, cyclic=True, **OPTIONS),
    "tree": lambda: TTN.random(5, n_outputs=3, output_std=1.0, **OPTIONS),
    "operator": lambda: SMPO.random(5, **OPTIONS),
    "operator, ring": lambda: MPO.random(3, cyclic=True, **OPTIONS),
    "layered": lambda: LayeredMPS.random(4, n_outputs=3, output_std=1.0, **OPTIONS),
    "generic": generic,
    "squared_norm": lambda: MPS.random(4, n_outputs=3, output_std=1.0, **OPTIONS),
}
FOUND = {
    name: lambda name=name: lookup("network", name)().random(
        4, n_outputs=3, output_std=1.0, **OPTIONS
    )
    for name in sorted({*names("network")} & {*names("structure")})
}
NETWORKS = BY_HAND | FOUND
every_network = pytest.mark.parametrize("name", NETWORKS)


def packed_of(name):
    packed, structure = pack(NETWORKS[name]())
    return packed, SquaredNorm(structure) if name == "squared_norm" else structure


def samples(structure, batch=4):
    rng = np.random.default_rng(1)
    return rng.normal(size=(batch, structure.nsites, structure.phys_dim)).astype("f4")


def outputs(packed, structure, phi):
    return np.asarray(contract(packed, structure, phi).dense())


def test_no_structure_is_left_out():
    assert {name.partition(",")[0] for name in NETWORKS} == set(names("structure")), (
        "add a network to BY_HAND, or give the topology the name of its structure"
    )


@every_network
def test_the_contract_is_kept(name):
    packed, structure = packed_of(name)
    cls = lookup("structure", name.partition(",")[0])
    assert type(structure) is cls
    assert issubclass(cls, Structure)
    assert cls.__dataclass_params__.frozen
    assert hash(structure) == hash(from_json(to_json(structure)))
    assert structure == from_json(to_json(structure))
    assert structure.nsites == len(structure.phys_dims)
    assert structure.squared == (name == "squared_norm")
    value = contract(packed, structure, samples(structure)).value
    assert value.shape == (4, *structure.output_dims)
    assert len(structure.output_dims) == len(structure.output_inds)
    assert structure.n_tensors == unpack(packed, structure).num_tensors
    again, same = pack(unpack(packed, structure))
    assert same == getattr(structure, "structure", structure)
    jax.tree.map(np.testing.assert_array_equal, again, packed)


@every_network
@pytest.mark.parametrize("log_factor", [1.3, -40.0])
def test_rescale_multiplies_the_outputs(name, log_factor):
    packed, structure = packed_of(name)
    phi = samples(structure)
    before = contract(packed, structure, phi)
    after = contract(structure.rescale(packed, log_factor), structure, phi)
    np.testing.assert_allclose(after.log_abs(), before.log_abs() + log_factor, atol=1e-4)
    np.testing.assert_array_equal(np.sign(after.value), np.sign(before.value))
    # Up to 2**10 the tensors with outputs take it all.
    if abs(log_factor) < 2:
        scaled = structure.rescale(packed, log_factor)
        changed = jax.tree.map(lambda a, b: bool(np.any(a != b)), packed, scaled)
        assert changed == jax.tree.map(bool, structure.output_tensors)


@every_network
def test_a_bias_is_added_where_the_outputs_are(name):
    packed, structure = packed_of(name)
    bias = jax.tree.map(np.ones_like, packed)
    found = structure.with_bias(packed, bias)
    expected = jax.tree.map(
        lambda a, n: a + np.asarray(n > 0, a.dtype), packed, structure.output_tensors
    )
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@every_network
def test_squared_norms_follow_from_the_outputs(name):
    packed, structure = packed_of(name)
    phi = samples(structure)
    values = outputs(packed, structure, phi).reshape(4, -1)
    found = contract(packed, SquaredNorm(structure), phi).dense()
    np.testing.assert_allclose(found, np.sum(values**2, axis=1), rtol=1e-4)


@every_network
def test_norms_and_their_gradients_ask_for_all_digits(name):
    packed, structure = packed_of(name)
    assert short_products_of(jax.value_and_grad(structure.log_norm_squared), packed) == []


@every_network
def test_nodes_are_the_network(name):
    packed, structure = packed_of(name)
    if structure.rooted_needs is not None:
        pytest.skip("no rooted view")
    again, same = structure.from_nodes(*structure.to_nodes(packed))
    assert same == structure
    jax.tree.map(np.testing.assert_array_equal, again, packed)
    form = structure.rooted()
    operands, own = [], {}
    for i, (core, children) in enumerate(zip(structure.nodes(packed), form.nodes, strict=True)):
        # Ends and missing outputs are of size 1 and have letters of their own.
        inds = [child if child >= 0 else 100 + 10 * i + slot for slot, child in enumerate(children)]
        operands += [core, [*inds, form.nsites + i]]
        own |= {ind: core.shape[slot] for slot, ind in enumerate(inds)}
    letters = {ind: n for n, ind in enumerate(dict.fromkeys(i for x in operands[1::2] for i in x))}
    operands[1::2] = [[letters[ind] for ind in inds] for inds in operands[1::2]]
    open_inds = [ind for ind in own if ind < form.nsites or ind >= 100]
    open_inds.append(form.nsites + len(form.nodes) - 1)
    whole = np.einsum(*operands, [letters[ind] for ind in open_inds], optimize="greedy")
    expected = np.exp(0.5 * float(log_norm_squared(packed, structure)))
    np.testing.assert_allclose(np.linalg.norm(whole), expected, rtol=1e-5)


# Abilities that are not there -------------------------------------------------------------------


@every_network
def test_each_refusal_says_what_is_needed(name):
    packed, structure = packed_of(name)
    ring, operator = name.endswith("ring"), name.startswith("operator")
    rooted = structure.rooted_needs is None
    if name in BY_HAND:
        assert rooted == (name in {"chain", "tree", "operator", "squared_norm"})
    if not rooted:
        words = "open ends, cyclic=False" if ring else f"open chains or trees, this is a {name}"
        with pytest.raises(ValueError, match=f"Sweeps need {words}.*gradients"):
            structure.check_swept()
        with pytest.raises(ValueError, match=f"A density needs {words}"):
            structure.check_rooted("A density needs")
        for refused in (
            structure.rooted,
            lambda: structure.to_nodes(packed) if not ring else structure.rooted(),
            lambda: structure.nodes(packed),
        ):
            with pytest.raises(ValueError, match=words):
                refused()
        assert not structure.has_exact_marginals
    elif operator:
        with pytest.raises(ValueError, match="Sweeps see an operator's outputs through"):
            structure.check_swept()
        SquaredNorm(structure).check_swept()
        assert not structure.has_exact_marginals
    else:
        structure.check_swept()
        assert structure.has_exact_marginals
    if not operator:
        with pytest.raises(ValueError, match="Transformed states need an operator"):
            transform(packed, structure, samples(structure))


def test_exact_marginals_of_specs_and_structures_agree():
    for name in names("network"):
        cls = lookup("network", name)
        assert issubclass(cls, NetworkSpec)
        for spec in (cls(), cls(cyclic=True)) if hasattr(cls, "cyclic") else (cls(),):
            structure = pack(spec.random(4, **OPTIONS))[1]
            assert spec.has_exact_marginals == structure.has_exact_marginals
    assert MPSSpec().has_exact_marginals
    assert TTNSpec().has_exact_marginals
    assert not MPSSpec(cyclic=True).has_exact_marginals


def test_a_structure_must_keep_the_contract():
    @dataclasses.dataclass(frozen=True)
    class Half(Structure):
        phys_dims: tuple

        def contract(self, packed, phi):
            return phi

    with pytest.raises(TypeError, match=r"log_norm_squared.*unpack"):
        Half((2, 2))
    required = {name for name in dir(Structure) if name in Structure.__abstractmethods__}
    assert required == {
        "contract", "log_norm_squared", "n_tensors", "output_tensors", "unpack",
    }  # fmt: skip
    assert inspect.isabstract(Structure)


def test_sites_of_chains_are_drawn_from_left_to_right():
    density = BornDensity(MPS.random(9, **OPTIONS))
    seen = []

    def draw(site, rows, rho):
        seen.append(site)
        return np.ones((len(rows), rho.shape[-1]))

    density.sample(np.zeros((2, 9, 2)), np.ones((2, 9), bool), draw)
    assert seen == list(range(9))


def test_noiseless_says_whether_it_adds_the_identity():
    assert Noiseless(Identity()).add_identity is True
    assert Noiseless(RandomNormal()).add_identity is False


@pytest.mark.parametrize(
    ("network", "bond", "degree"),
    [
        (MPS.random(5, bond_dim=3, key=jax.random.key(0)), 3, 2),
        (TTN.random(16, bond_dim=3, key=jax.random.key(0)), 3, 3),
        (TTN.random(4, bond_dim=3, key=jax.random.key(0)), 3, 2),
        (MERA.random(8, bond_dim=3, key=jax.random.key(0)), 3, 4),
        (SMPO.random(6, bond_dim=5, spacing=2, key=jax.random.key(0)), 5, 2),
    ],
    ids=lambda value: type(value).__name__,
)
def test_structures_know_their_largest_bond_and_tensor(network, bond, degree):
    _, structure = pack(network)
    for each in (structure, structure.padded(), SquaredNorm(structure)):
        assert (each.max_bond, each.max_degree) == (bond, degree)


# Networks changed by hand -----------------------------------------------------------------------


def drop_tags(network):
    network.drop_tags()


def rename_tags(network):
    network.retag_({tag: f"my {tag}" for tag in network.tags})


def swap_tags(network):
    swaps = {"I0": "I1", "I1": "I0", "N0": "N1", "N1": "N0", "SMPO": "MPS", "MPS": "SMPO"}
    network.retag_({old: new for old, new in swaps.items() if old in network.tags})


def rename_bonds(network):
    network.reindex_({ind: qtn.rand_uuid() for ind in network.inner_inds()})


def reverse_tensors(network):
    tensors = [network.pop_tensor(tid) for tid in list(network.tensor_map)]
    for tensor in reversed(tensors):
        network.add_tensor(tensor)


def transpose_tensors(network):
    for tensor in network:
        tensor.transpose_(*reversed(tensor.inds))


def neighbours(network):
    first, *others = network
    return first, next(tensor for tensor in others if qtn.bonds(first, tensor))


def merge_neighbours(network):
    for tag, tensor in zip("ab", neighbours(network)):
        tensor.add_tag(tag)
    network.contract_between("a", "b")


def extra_bond(network):
    for tensor in neighbours(network):
        tensor.new_ind("extra", 1)


def insert_identity(network):
    first, second = neighbours(network)
    (bond,) = qtn.bonds(first, second)
    size = network.ind_size(bond)
    first.reindex_({bond: "between"})
    network.add_tensor(qtn.Tensor(np.eye(size, dtype="f4"), (bond, "between")))


KEPT = [drop_tags, rename_tags, swap_tags, rename_bonds, reverse_tensors, transpose_tensors]
RESHAPED = [merge_neighbours, extra_bond, insert_identity]


@pytest.mark.some(2)
@every_network
@pytest.mark.parametrize("change", KEPT + RESHAPED)
def test_a_network_changed_by_hand_has_the_same_outputs(name, change):
    network = NETWORKS[name]()
    packed, structure = pack(network)
    phi = samples(structure)
    change(network)
    again, found = pack(network)
    expected = outputs(packed, structure, phi)
    np.testing.assert_allclose(
        outputs(again, found, phi), expected, atol=3e-6 * np.abs(expected).max()
    )
    if change in KEPT:
        assert type(found) is type(structure)
        assert type(unpack(again, found)) is type(network)
    elif name not in ("mera", "generic"):
        # What it has become has no kernel of its own.
        assert type(unpack(again, found)) is Network
        assert found.site_ind_id.format(0) == "k0"


@pytest.mark.parametrize("name", ["chain", "tree", "operator", "layered"])
def test_squeezed_bonds_of_size_one(name):
    options = {**OPTIONS, "bond_dim": 1}
    network = {
        "chain": lambda: MPS.random(4, n_outputs=3, **options),
        "tree": lambda: TTN.random(4, n_outputs=3, **options),
        "operator": lambda: SMPO.random(4, **options),
        "layered": lambda: LayeredMPS.random(4, n_outputs=3, mps_bond_dim=1, **options),
    }[name]()
    packed, structure = pack(network)
    phi = samples(structure)
    network.squeeze_()
    again, found = pack(network)
    np.testing.assert_allclose(
        outputs(again, found, phi), outputs(packed, structure, phi), rtol=1e-4, atol=1e-6
    )


@every_network
def test_a_lost_input_is_named(name):
    network = NETWORKS[name]()
    network.isel_({"k1": 0})
    with pytest.raises(ValueError, match="no input k1"):
        pack(network)


@every_network
def test_a_new_open_index_is_named(name):
    network = NETWORKS[name]()
    next(iter(network)).new_ind("dangling", 2)
    with pytest.raises(ValueError, match="dangling are neither inputs nor"):
        pack(network)


@every_network
@pytest.mark.parametrize("dtype", ["complex64", "int32", "bool"])
def test_arrays_that_are_no_real_floats_are_refused(name, dtype):
    network = NETWORKS[name]()
    network.apply_to_arrays(lambda array: np.asarray(array).astype(dtype))
    with pytest.raises(ValueError, match=rf"real floats, got {dtype}.*astype"):
        pack(network)


def test_a_ring_of_two_sites():
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(3, 3, 2)).astype("f4") for _ in range(2)]
    packed, structure = pack(MPS(arrays))
    phi = samples(structure)
    expected = np.einsum("abi,baj,si,sj->s", *arrays, phi[:, 0], phi[:, 1])
    np.testing.assert_allclose(outputs(packed, structure, phi), expected, rtol=1e-4)


def test_a_tree_with_a_way_through():
    arrays = [np.ones((2, 3)), np.ones((2, 2, 3)), np.ones((3, 3, 4))]
    tree = Tree(3, ((0,), (1, 2), (3, 4)))
    ttn = TTN(arrays, tree, output_inds=("out",))
    ttn.drop_tags()
    assert [core.shape for core in ttn.cores()] == [(2, 3), (2, 2, 3), (3, 3, 4)]
    assert ttn.bond_sizes() == (3, 3)
    merge_neighbours(ttn)
    assert ttn.cores() is None
    with pytest.raises(ValueError, match="no longer form its tree"):
        ttn.bond_sizes()
