"""SMPO, MPO and LayeredMPS as quimb classes, their starts, their specs, and training with them."""

import jax
import numpy as np
import pytest
import quimb.tensor as qtn
from sklearn.datasets import load_wine

from tn4ml_plus import TNClassifier, TNRegressor
from tn4ml_plus._registry import from_json, names, resolve, to_json
from tn4ml_plus.contraction import contract, log_norm_squared, pack, unpack
from tn4ml_plus.initializers import LeastSquaresIdentity, Noiseless, RandomNormal
from tn4ml_plus.networks import (
    MPO,
    MPS,
    SMPO,
    LayeredMPS,
    MPOSpec,
    Network,
    SMPOSpec,
    from_quimb,
)

evaluate = jax.jit(contract, static_argnums=1)
KINDS = [
    (cyclic, output_sites) for cyclic in (False, True) for output_sites in [(0, 2, 4), (3,), None]
]
every_kind = pytest.mark.parametrize(("cyclic", "output_sites"), KINDS, ids=str)


def random_smpo(cyclic=False, output_sites=(0, 2, 4), seed=0, **options):
    kind = MPO if output_sites is None else SMPO
    sites = {} if output_sites is None else {"output_sites": output_sites}
    options = {"bond_dim": 3, "out_dim": 3, "initializer": RandomNormal(0.7)} | sites | options
    return kind.random(5, cyclic=cyclic, key=jax.random.key(seed), **options)


def random_layers(cyclic=False, output_sites=(0, 2, 4), **options):
    options = {"bond_dim": 3, "mps_bond_dim": 2, "n_outputs": 3} | options
    return LayeredMPS.random(
        5, cyclic=cyclic, output_sites=output_sites or range(5), initializer=RandomNormal(0.7),
        key=jax.random.key(0), **options,
    )  # fmt: skip


def whole(network):
    """All numbers of the network: axes k0, k1, ..., then the outputs."""
    order = [*(f"k{i}" for i in range(5)), *network.output_inds]
    return network.contract(output_inds=order).transpose(*order).data


def assert_same_function(ours, theirs):
    expected = whole(theirs)
    np.testing.assert_allclose(whole(ours), expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    assert type(ours) is type(theirs)
    assert ours.output_inds == theirs.output_inds
    phi = np.random.default_rng(0).normal(size=(2, 5, 2)).astype("f4")
    for i in range(5):
        expected = np.einsum("bs,bs...->b...", phi[:, i], expected if i else [expected] * 2)
    outputs = evaluate(*pack(ours), phi).dense()
    np.testing.assert_allclose(outputs, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


# quimb ------------------------------------------------------------------------------------------


@every_kind
def test_pack_and_unpack_round_trip(cyclic, output_sites):
    for network in (random_smpo(cyclic, output_sites), random_layers(cyclic, output_sites)):
        packed, structure = pack(network)
        again = unpack(packed, structure)
        assert type(again) is type(network)
        for ours, theirs in zip(again, network, strict=True):
            np.testing.assert_array_equal(ours.data, theirs.data)
            assert ours.tags == theirs.tags
        assert again.outer_inds() == network.outer_inds()
        packed_again, structure_again = pack(again)
        assert structure_again == structure
        for ours, theirs in zip(jax.tree.leaves(packed_again), jax.tree.leaves(packed)):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.some(2)
@every_kind
def test_copies_and_views(cyclic, output_sites):
    for network in (random_smpo(cyclic, output_sites), random_layers(cyclic, output_sites)):
        plain = network.view_as(qtn.TensorNetwork)
        assert type(plain) is qtn.TensorNetwork
        kind = type(network)
        for other in (network.copy(deep=True), kind(network), plain.view_like(network)):
            assert_same_function(other, network)
        copy = network.copy(deep=True)
        next(iter(copy)).modify(apply=lambda data: 0 * data)
        assert np.abs(next(iter(network)).data).max() > 0


@every_kind
def test_quimbs_operator_class(cyclic, output_sites):
    smpo = random_smpo(cyclic, output_sites)
    assert isinstance(smpo, qtn.MatrixProductOperator)
    expected = output_sites or (0, 1, 2, 3, 4)
    assert smpo.output_sites == expected
    assert smpo.output_inds == tuple(f"b{i}" for i in expected)
    assert smpo.cyclic == cyclic
    assert smpo.bond_sizes() == [3] * (5 if cyclic else 4)
    dense = smpo.to_dense()
    np.testing.assert_allclose(dense, whole(smpo).reshape(32, -1), rtol=1e-4, atol=1e-5)
    norm = log_norm_squared(*pack(smpo))
    np.testing.assert_allclose(norm, 2 * np.log(smpo.norm()), rtol=1e-4)


@pytest.mark.parametrize("output_sites", [(0, 2, 4), (3,), None], ids=str)
def test_what_quimb_does_leaves_the_function(output_sites):
    smpo = random_smpo(False, output_sites)
    for where in (0, 3, 4):
        assert_same_function(smpo.canonicalize(where), smpo)
    compressed = smpo.copy()
    compressed.compress(cutoff=0.0)
    assert_same_function(compressed, smpo)
    compressed.compress(max_bond=2)
    assert pack(compressed)[1].bond_dim == 2
    permuted = smpo.copy(deep=True)
    permuted.permute_arrays("dulr")
    assert permuted[3].inds[0] == ("b3" if 3 in smpo.output_sites else "k3")
    assert_same_function(permuted, smpo)
    permuted.permute_arrays()
    for ours, theirs in zip(permuted, smpo, strict=True):
        np.testing.assert_array_equal(ours.data, theirs.data)


@every_kind
def test_layers_are_what_they_were_made_of(cyclic, output_sites):
    smpo = random_smpo(cyclic, output_sites)
    n_hidden = len(smpo.output_sites)
    mps = MPS.random(
        n_hidden, bond_dim=2, phys_dim=3, n_outputs=2, cyclic=cyclic and n_hidden > 2,
        key=jax.random.key(1),
    )  # fmt: skip
    network = LayeredMPS(smpo, mps)
    assert network.num_tensors == 5 + n_hidden
    assert network.output_inds == ("out",)
    assert set(network.outer_inds()) == {*(f"k{i}" for i in range(5)), "out"}
    for ours, theirs in ((network.smpo, smpo), (network.mps, mps)):
        assert isinstance(ours, SMPO if theirs is smpo else MPS)
        assert (ours.cyclic, ours.output_inds) == (theirs.cyclic, theirs.output_inds)
        for a, b in zip(ours, theirs, strict=True):
            assert a.data is b.data
            assert a.tags == b.tags
        assert set(ours.outer_inds()) == set(theirs.outer_inds())
    # The layers contracted by hand.
    reader = network.mps.reindex({f"k{j}": ind for j, ind in enumerate(smpo.output_inds)})
    order = [*(f"k{i}" for i in range(5)), "out"]
    expected = (smpo & reader).contract(output_inds=order).transpose(*order).data
    np.testing.assert_allclose(whole(network), expected, rtol=1e-4, atol=1e-5)


def test_layers_that_do_not_fit():
    smpo = random_smpo()
    for mps in (
        MPS.random(2, phys_dim=3, key=jax.random.key(0)),
        MPS.random(3, phys_dim=2, key=jax.random.key(0)),
    ):
        with pytest.raises(
            ValueError, match=r"outputs of the sizes \(3, 3, 3\), but the MPS reads"
        ):
            LayeredMPS(smpo, mps)


def test_other_names():
    arrays = [tensor.data for tensor in random_smpo()]
    names = {"upper_ind_id": "in{}", "lower_ind_id": "hidden{}", "site_tag_id": "SITE{}"}
    smpo = SMPO(arrays, output_sites=(0, 2, 4), **names)
    again = unpack(*pack(smpo))
    assert again.outer_inds() == smpo.outer_inds()
    assert again.output_inds == ("hidden0", "hidden2", "hidden4")
    layers = LayeredMPS(again, MPS.random(3, phys_dim=3, key=jax.random.key(0)))
    assert unpack(*pack(layers)).outer_inds() == tuple(f"in{i}" for i in range(5))
    assert layers.smpo.output_inds == again.output_inds


@pytest.mark.parametrize("cyclic", [False, True])
def test_matrix_product_operator_becomes_mpo(cyclic):
    network = qtn.MPO_rand(5, 3, cyclic=cyclic)
    mpo = from_quimb(network)
    assert type(mpo) is MPO
    assert mpo.output_inds == tuple(f"b{i}" for i in range(5))
    assert mpo[2].data is network[2].data
    assert from_quimb(mpo) is mpo
    assert from_quimb(mpo, mpo.output_inds) is mpo
    assert type(network) is qtn.MatrixProductOperator
    dense = network.to_dense()
    np.testing.assert_allclose(unpack(*pack(mpo)).to_dense(), dense, rtol=1e-4, atol=1e-5)


def test_what_an_mpo_cannot_hold_becomes_a_network():
    network = qtn.MPO_rand(5, 3)
    assert type(from_quimb(network, tuple(f"b{i}" for i in reversed(range(5))))) is Network
    flipped = network.reindex({f"{a}{i}": f"{b}{i}" for i in range(5) for a, b in ("kb", "bk")})
    flipped[2].new_ind("more", 2)
    assert type(from_quimb(flipped)) is Network


def test_ours_pass_as_they_are():
    for network in (random_smpo(), random_layers()):
        assert from_quimb(network) is network


# Starts -----------------------------------------------------------------------------------------


def test_sizes():
    smpo = SMPO.random(
        7, bond_dim=3, phys_dim=(2, 3, 2, 2, 4, 2, 2), out_dim=5, spacing=3,
        key=jax.random.key(0),
    )  # fmt: skip
    assert smpo.output_sites == (0, 3, 6)
    assert [smpo.ind_size(f"k{i}") for i in range(7)] == [2, 3, 2, 2, 4, 2, 2]
    assert {smpo.ind_size(ind) for ind in smpo.output_inds} == {5}
    assert SMPO.random(5, spacing=9, key=jax.random.key(0)).output_sites == (0,)
    assert all(tensor.dtype == "float32" for tensor in smpo)
    with jax.enable_x64(True):
        assert SMPO.random(3, key=jax.random.key(0))[1].dtype == "float64"


def test_every_site_has_its_own_noise():
    smpo = random_smpo(output_sites=(0, 4))
    assert not np.allclose(smpo[1].data, smpo[2].data)
    other = random_smpo(output_sites=(0, 4), seed=1)
    assert not np.allclose(smpo[1].data, other[1].data)
    same = random_smpo(output_sites=(0, 4))
    np.testing.assert_array_equal(smpo[1].data, same[1].data)


@pytest.mark.parametrize("cyclic", [False, True])
def test_identity_hands_the_state_on(cyclic):
    weights = np.random.default_rng(0).uniform(1, 2, (5, 2))
    smpo = random_smpo(cyclic, (1, 3), initializer=LeastSquaresIdentity(std=0.0), weights=weights)
    phi = np.random.default_rng(1).normal(size=(4, 5, 2)).astype("f4")
    outputs = evaluate(*pack(smpo), phi).dense()
    unit = np.einsum("bis,is->bi", phi, weights).prod(axis=1)
    bond = 3 if cyclic else 1
    np.testing.assert_allclose(outputs[:, 0, 0], bond * unit, rtol=1e-4)
    # The other channels are mixtures of what their own site reads.
    assert np.abs(outputs[:, 1:, :]).min() > 0
    rest = outputs[:, 1, 0] / outputs[:, 0, 0]
    others = np.arange(5) != 1
    swapped = phi.copy()
    swapped[:, others] = np.random.default_rng(2).normal(size=(4, 4, 2))
    changed = evaluate(*pack(smpo), swapped).dense()
    np.testing.assert_allclose(changed[:, 1, 0] / changed[:, 0, 0], rest, rtol=1e-3)


@pytest.mark.parametrize("name", names("initializer"))
def test_start_and_anchor_share_their_mixtures(name):
    initializer = resolve("initializer", name)
    options = {"n_outputs": 2, "bond_dim": 2, "key": jax.random.key(3)}
    spec = SMPOSpec()
    start = spec.random(5, initializer=initializer, **options)
    anchor = spec.random(
        5, initializer=Noiseless(initializer), output_std=0.0, output_bias=[2.0, -1.0], **options
    )
    noise = start[("I0", "SMPO")].data - anchor[("I0", "SMPO")].data
    if initializer.add_identity:
        own = initializer.noise(np.random.default_rng(0), (50, 2, 50), fan=10)
        assert np.abs(noise).max() <= 2 * np.abs(own).max()
        phi = np.ones((1, 5, 2), "f4")
        outputs = evaluate(*pack(anchor), phi).dense()
        # Each site reads w . phi = 1, or phi_1 + phi_2 = 2 for the identity that ignores the data.
        ratio = outputs[0] / np.array([2.0, -1.0])
        np.testing.assert_allclose(ratio, ratio[0], rtol=1e-5)
        assert name == "identity" or abs(ratio[0] - 1) < 1e-5
    else:
        assert not anchor[("I0", "SMPO")].data.any()
        assert noise.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bond_dim": 0}, "bond_dim must be an integer of at least 1, got 0"),
        ({"out_dim": 0}, "out_dim must be an integer of at least 1, got 0"),
        ({"phys_dim": (2, 2)}, "2 entries for 5 sites"),
        ({"spacing": 0}, "spacing must be an integer of at least 1"),
        ({"output_sites": ()}, "at least one and ascending, from 0 to 4"),
        ({"output_sites": (2, 1)}, "ascending"),
        ({"output_sites": (1, 1)}, "ascending"),
        ({"output_sites": (1, 5)}, "from 0 to 4"),
        ({"output_sites": (-1,)}, "Each of output_sites must be an integer of at least 0"),
        ({"weights": np.ones((5, 3))}, r"shape \(5, 2\)"),
    ],
)
def test_bad_sizes(options, message):
    with pytest.raises(ValueError, match=message):
        SMPO.random(5, key=jax.random.key(0), **options)


def test_cyclic_operators_need_three_sites():
    for network in (SMPO, MPO, LayeredMPS):
        with pytest.raises(ValueError, match="at least 3 sites"):
            network.random(2, cyclic=True, key=jax.random.key(0))


def test_arrays_that_do_not_fit():
    ends = np.ones((2, 2))
    with pytest.raises(ValueError, match="array of site 1 has 3 axes where 4"):
        SMPO([ends, np.ones((2, 2, 2)), ends], output_sites=(1,))
    with pytest.raises(ValueError, match="one has size 2 there and the other 3"):
        SMPO([ends, np.ones((3, 2, 2)), ends[:, :, None]], output_sites=(2,))
    with pytest.raises(ValueError, match="left bond, right bond, input"):
        MPO([ends, ends])


# Specs and estimators ---------------------------------------------------------------------------


def test_specs_make_what_they_describe():
    options = {"bond_dim": 2, "key": jax.random.key(0)}
    assert type(MPOSpec().random(4, **options)) is MPO
    smpo = SMPOSpec(spacing=3, out_dim=4).random(7, **options)
    assert type(smpo) is SMPO
    assert (smpo.output_sites, smpo.ind_size("b3")) == ((0, 3, 6), 4)
    layers = SMPOSpec(output_sites=(1, 2), mps_bond_dim=5).random(7, n_outputs=3, **options)
    assert type(layers) is LayeredMPS
    assert layers.smpo.output_sites == (1, 2)
    assert layers.mps.bond_sizes() == [5]
    assert layers.ind_size("out") == 3
    ring = MPOSpec(cyclic=True).random(4, n_outputs=3, **options)
    assert ring.smpo.cyclic
    assert ring.mps.cyclic
    assert not SMPOSpec(cyclic=True).random(4, n_outputs=3, **options).mps.cyclic


def test_a_single_output_carries_the_classes_itself():
    options = {"bond_dim": 2, "key": jax.random.key(0), "n_outputs": 3}
    options |= {"initializer": LeastSquaresIdentity(0.0), "output_std": 0.0}
    smpo = SMPOSpec(output_sites=(2,)).random(5, output_bias=[1.0, 2.0, 3.0], **options)
    assert type(smpo) is SMPO
    assert smpo.output_inds == ("b2",)
    outputs = evaluate(*pack(smpo), np.ones((1, 5, 2), "f4")).dense()
    np.testing.assert_allclose(outputs, [[1.0, 2.0, 3.0]], rtol=1e-5)


@pytest.mark.parametrize("spec", [SMPOSpec(3, (0, 2), 4, 2, True), MPOSpec(4, 2, True)], ids=str)
def test_specs_are_values_that_can_be_stored(spec):
    assert from_json(to_json(spec)) == spec
    assert hash(spec) == hash(from_json(to_json(spec)))


@pytest.mark.parametrize("name", ["spacing", "out_dim", "mps_bond_dim"])
def test_bad_specs(name):
    with pytest.raises(ValueError, match=f"{name} must be an integer of at least 1"):
        SMPOSpec(**{name: 0})


NETWORKS = ["mpo", "smpo", SMPOSpec(output_sites=(1,)), SMPOSpec(cyclic=True, spacing=1)]


# An MPO is an SMPO with outputs everywhere, and one output is less than two.
@pytest.mark.parametrize(
    "network",
    [pytest.param(n, marks=[pytest.mark.long] if i < 3 else []) for i, n in enumerate(NETWORKS)],
    ids=str,
)
def test_classifiers_learn(network):
    X, y = load_wine(return_X_y=True)
    clf = TNClassifier(
        network=network, bond_dim=3, n_members=2, max_epochs=30, batch_size=16, random_state=0
    )
    assert clf.fit(X[::2], y[::2]).score(X[1::2], y[1::2]) > 0.85
    assert len(clf.networks_) == 2
    loss = clf.history_["loss"]
    assert loss[-1] < 0.5 * loss[0]


@pytest.mark.long
def test_a_regressor_learns():
    X = np.random.default_rng(0).uniform(-1, 1, (200, 4))
    y = X[:, 0] - X[:, 3] + X[:, 1]
    model = TNRegressor(network="smpo", bond_dim=3, n_members=1, batch_size=16, random_state=0)
    model.fit(X[:150], y[:150])
    assert model.score(X[150:], y[150:]) > 0.9
    assert type(model.network_) is LayeredMPS


def test_an_operator_given_as_it_is_trains_on():
    X, y = load_wine(return_X_y=True)
    options = {"phys_dim": 3, "bond_dim": 2, "n_outputs": 3, "key": jax.random.key(0)}
    network = LayeredMPS.random(13, weights=np.eye(1, 3).repeat(13, axis=0), **options)
    clf = TNClassifier(
        network=network, n_members=1, max_epochs=30, batch_size=16, random_state=0
    ).fit(X, y)
    assert type(clf.network_) is LayeredMPS
    assert clf.score(X, y) > 0.9
