"""MPS as a quimb class: what quimb does to it leaves the function, and it stays packable."""

import jax
import matplotlib
import numpy as np
import pytest
import quimb.tensor as qtn

from tn4ml_plus.contraction import contract, log_norm_squared, pack, unpack
from tn4ml_plus.initializers import LeastSquaresIdentity, RandomNormal
from tn4ml_plus.networks import MPS, MPSSpec, from_quimb

matplotlib.use("Agg")

KINDS = [(cyclic, output_site) for cyclic in (False, True) for output_site in (None, 0, 2, 4)]
evaluate = jax.jit(contract, static_argnums=1)
every_kind = pytest.mark.parametrize(("cyclic", "output_site"), KINDS)
every_open_kind = pytest.mark.parametrize("output_site", [None, 0, 2, 4])


def random_mps(cyclic, output_site, seed=0, **options):
    n_outputs = None if output_site is None else 3
    return MPS.random(
        5,
        bond_dim=4,
        n_outputs=n_outputs,
        output_site=output_site,
        cyclic=cyclic,
        initializer=RandomNormal(0.7),
        key=jax.random.key(seed),
        **options,
    )


def whole(mps):
    """All numbers of the network: axes k0, k1, ..., then the outputs."""
    order = [*(mps.site_ind(i) for i in range(5)), *mps.output_inds]
    return mps.contract(output_inds=order).transpose(*order).data


def assert_same_function(ours, theirs):
    """Equal numbers, by quimb and through packing."""
    expected = whole(theirs)
    atol = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(whole(ours), expected, rtol=1e-4, atol=atol)
    assert type(ours) is MPS
    assert ours.output_inds == theirs.output_inds
    assert ours.output_site == theirs.output_site
    phi = np.random.default_rng(0).normal(size=(2, 5, 2)).astype("f4")
    for i in range(5):
        expected = np.einsum("bs,bs...->b...", phi[:, i], expected if i else [expected] * 2)
    outputs = evaluate(*pack(ours), phi).dense()
    np.testing.assert_allclose(outputs, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


@every_kind
def test_pack_and_unpack_round_trip(cyclic, output_site):
    mps = random_mps(cyclic, output_site)
    again = unpack(*pack(mps))
    assert type(again) is MPS
    assert (again.cyclic, again.output_site) == (cyclic, output_site)
    for ours, theirs in zip(again, mps, strict=True):
        np.testing.assert_array_equal(ours.data, theirs.data)
        assert ours.tags == theirs.tags
    assert again.outer_inds() == mps.outer_inds()
    packed, structure = pack(again)
    assert structure == pack(mps)[1]
    for ours, theirs in zip(jax.tree.leaves(packed), jax.tree.leaves(pack(mps)[0]), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@every_kind
def test_copy_is_an_independent_mps(cyclic, output_site):
    mps = random_mps(cyclic, output_site)
    for copy in (mps.copy(deep=True), MPS(mps.copy(deep=True)), 1 * mps):
        assert_same_function(copy, mps)
    copy = mps.copy(deep=True)
    copy[1].modify(data=0 * copy[1].data)
    assert np.abs(mps[1].data).max() > 0


@every_kind
def test_view_as_a_plain_network_and_back(cyclic, output_site):
    mps = random_mps(cyclic, output_site)
    plain = mps.view_as(qtn.TensorNetwork)
    assert type(plain) is qtn.TensorNetwork
    assert_same_function(plain.view_like(mps), mps)
    state = mps.view_as(qtn.MatrixProductState)
    assert type(state) is qtn.MatrixProductState
    again = from_quimb(state, mps.output_inds)
    assert_same_function(again, mps)


@every_open_kind
def test_compress_without_cutoff(output_site):
    mps = random_mps(False, output_site)
    compressed = mps.copy()
    compressed.compress(cutoff=0.0)
    assert_same_function(compressed, mps)


def test_compress_to_smaller_bonds_packs():
    mps = random_mps(False, 2)
    mps.compress(max_bond=2)
    assert max(mps.bond_sizes()) == 2
    packed, structure = pack(mps)
    assert structure.bond_dim == 2
    assert packed["center"].shape == (2, 2, 3, 2)
    assert_same_function(mps, unpack(packed, structure))


@every_open_kind
@pytest.mark.parametrize("where", [0, 3, 4])
def test_canonicalize(output_site, where):
    mps = random_mps(False, output_site)
    canonical = mps.canonicalize(where)
    assert_same_function(canonical, mps)
    bond = canonical.bond(0, 1)
    left = canonical[0].to_dense([bond], [ind for ind in canonical[0].inds if ind != bond])
    if where > 0:
        np.testing.assert_allclose(left @ left.T, np.eye(len(left)), atol=1e-5)


def test_left_and_right_canonicalize_in_place():
    mps = random_mps(False, 2)
    original = mps.copy(deep=True)
    mps.left_canonicalize_()
    assert_same_function(mps, original)
    mps.right_canonicalize_()
    assert_same_function(mps, original)


@pytest.mark.parametrize("output_site", [None, 2, 4])
@pytest.mark.parametrize("cut", [1, 2, 4])
def test_entropy_is_that_of_the_dense_state(output_site, cut):
    mps = random_mps(False, output_site)
    mps /= mps.norm()
    # Outputs belong to their site.
    dense = whole(mps)
    if output_site is not None:
        dense = np.moveaxis(dense, -1, output_site + 1)
    left = 2**cut * (3 if output_site is not None and output_site < cut else 1)
    squares = np.linalg.svd(dense.reshape(left, -1), compute_uv=False) ** 2
    squares = squares[squares > 1e-12]
    np.testing.assert_allclose(
        mps.entropy(cut), -np.sum(squares * np.log2(squares)), rtol=1e-3, atol=1e-4
    )


@every_kind
def test_draw(cyclic, output_site):
    figure = random_mps(cyclic, output_site).draw(return_fig=True, show_tags=False)
    assert figure.axes
    matplotlib.pyplot.close(figure)


@every_kind
def test_norm_is_quimbs(cyclic, output_site):
    mps = random_mps(cyclic, output_site)
    log_norm = jax.jit(log_norm_squared, static_argnums=1)(*pack(mps))
    np.testing.assert_allclose(log_norm, 2 * np.log(np.linalg.norm(whole(mps))), rtol=1e-4)
    np.testing.assert_allclose(log_norm, 2 * np.log(mps.norm()), rtol=1e-4)


@every_kind
def test_permuted_arrays_pack_alike(cyclic, output_site):
    mps = random_mps(cyclic, output_site)
    permuted = mps.copy(deep=True)
    permuted.permute_arrays("plr")
    assert permuted[1].inds[0] == "k1"
    assert_same_function(permuted, mps)
    permuted.permute_arrays()
    for ours, theirs in zip(permuted, mps, strict=True):
        np.testing.assert_array_equal(ours.data, theirs.data)


def test_other_names_of_sites():
    arrays = [tensor.data for tensor in random_mps(False, 2)]
    mps = MPS(
        arrays, output_site=2, output_inds=("label",), site_ind_id="x{}", site_tag_id="SITE{}"
    )
    again = unpack(*pack(mps))
    assert again.outer_inds() == ("x0", "x1", "x2", "label", "x3", "x4")
    assert [set(t.tags) for t in again] == [{f"SITE{i}"} for i in range(5)]


def test_several_outputs_on_one_site():
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=s) for s in [(3, 2), (3, 3, 2), (3, 3, 2, 4, 5), (3, 3, 2), (3, 2)]]
    mps = MPS(arrays, output_site=2, output_inds=("a", "b"))
    assert_same_function(unpack(*pack(mps)), mps)


def test_output_site_follows_the_tensors():
    mps = random_mps(False, 2)
    state = mps.view_as(qtn.MatrixProductState)
    assert from_quimb(state, ("out",)).output_site == 2
    assert random_mps(False, None).output_site is None


@pytest.mark.parametrize("nsites", [1, 2])
def test_short_chains(nsites):
    mps = MPS.random(nsites, bond_dim=3, n_outputs=2, key=jax.random.key(0))
    assert nsites == mps.L
    assert mps.output_site == nsites // 2
    again = unpack(*pack(mps))
    for ours, theirs in zip(again, mps, strict=True):
        np.testing.assert_array_equal(ours.data, theirs.data)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bond_dim": 0}, "bond_dim must be an integer of at least 1, got 0"),
        ({"bond_dim": 2.5}, "bond_dim must be an integer"),
        ({"phys_dim": 0}, "phys_dim must be an integer of at least 1, got 0"),
        ({"phys_dim": "2"}, "phys_dim must be an integer"),
        ({"phys_dim": (2, 2, 2.0, 2, 2)}, "phys_dim must be an integer of at least 1, got 2.0"),
        ({"phys_dim": (2, 2)}, "2 entries for 5 sites"),
        ({"n_outputs": 0}, "n_outputs must be an integer of at least 1, or None, got 0"),
        ({"n_outputs": True}, "n_outputs must be an integer"),
        ({"output_site": 5, "n_outputs": 2}, "between 0 and 4"),
        ({"output_site": -1, "n_outputs": 2}, "output_site must be an integer of at least 0"),
        ({"output_site": 1.0, "n_outputs": 2}, "output_site must be an integer"),
        ({"output_std": -0.1}, "output_std must be a finite number of at least 0"),
        ({"weights": np.ones((5, 3))}, r"shape \(5, 2\)"),
    ],
)
def test_bad_sizes(options, message):
    with pytest.raises(ValueError, match=message):
        MPS.random(5, key=jax.random.key(0), **options)


@pytest.mark.parametrize("nsites", [1, 2])
def test_cyclic_chains_need_three_sites(nsites):
    with pytest.raises(ValueError, match="at least 3 sites"):
        MPS.random(nsites, cyclic=True, key=jax.random.key(0))
    with pytest.raises(ValueError, match="nsites must be an integer of at least 1"):
        MPS.random(0, key=jax.random.key(0))
    with pytest.raises(ValueError, match="nsites must be an integer"):
        MPS.random(3.0, key=jax.random.key(0))


def test_arrays_that_do_not_fit():
    arrays = [np.ones((2, 2)), np.ones((2, 2, 2)), np.ones((2, 2))]
    with pytest.raises(ValueError, match="output_site and output_inds together"):
        MPS(arrays, output_site=1)
    with pytest.raises(ValueError, match="array of site 1 has 3 axes where 4"):
        MPS(arrays, output_site=1, output_inds=("out",))
    with pytest.raises(ValueError, match="left bond, right bond, physical"):
        MPS([arrays[0], arrays[0], arrays[2]])


def test_bond_sizes_that_do_not_fit():
    with pytest.raises(ValueError, match="sites 0 and 1 share a bond, but one has size 2"):
        MPS([np.ones((2, 2)), np.ones((3, 2, 2)), np.ones((2, 2))])
    ring = [np.ones((2, 2, 2)), np.ones((2, 2, 2)), np.ones((2, 3, 2))]
    with pytest.raises(ValueError, match="sites 0 and 2 share a bond, but one has size 2"):
        MPS(ring)


def test_weights_and_bias_start_the_outputs():
    weights = np.tile([1.0, 0.0], (5, 1))
    mps = MPS.random(
        5, bond_dim=3, n_outputs=2, initializer=LeastSquaresIdentity(std=0.0), weights=weights,
        output_std=0.0, output_bias=[2.0, -1.0], key=jax.random.key(0),
    )  # fmt: skip
    phi = np.random.default_rng(0).normal(size=(4, 5, 2)).astype("f4")
    phi[..., 0] = 1
    outputs = evaluate(*pack(mps), phi).dense()
    np.testing.assert_allclose(outputs, [[2.0, -1.0]] * 4, rtol=1e-6)


def test_spec_makes_the_chain_it_describes():
    spec = MPSSpec(output_site=1, cyclic=True)
    mps = spec.random(4, bond_dim=2, n_outputs=2, key=jax.random.key(0))
    assert (mps.output_site, mps.cyclic, mps.L) == (1, True, 4)


def test_sizes_may_be_numpys():
    sizes = dict(zip(("bond_dim", "n_outputs", "output_site"), np.array([2, 3, 1])))
    mps = MPS.random(np.int64(4), phys_dim=np.array([2, 3, 2, 2]), **sizes, key=jax.random.key(0))
    assert (mps.output_site, mps.ind_size("out"), mps.bond_sizes()) == (1, 3, [2, 2, 2])
