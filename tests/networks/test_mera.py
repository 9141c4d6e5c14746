"""MERA as a quimb object and as a model, against dense contractions."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quimb.tensor as qtn
from covering import mostly_long, pairs

from tn4ml_plus import TNClassifier
from tn4ml_plus._registry import from_json, names, resolve, to_json
from tn4ml_plus.contraction import _generic, calibrate, contract, log_norm_squared, pack, unpack
from tn4ml_plus.errors import ContractionTooLargeError
from tn4ml_plus.initializers import LeastSquaresIdentity, Noiseless
from tn4ml_plus.networks import MERA, MERASpec, from_quimb

RAGGED = [2, 3, 2, 2, 4]


def random(nsites=8, **options):
    given = {"bond_dim": 3, "n_outputs": 2, "key": jax.random.key(0)} | options
    return MERA.random(nsites, **given)


def disentanglers(mera, layer=""):
    return [tensor for tensor in mera if {"_UNI", layer or "_UNI"} <= {*tensor.tags}]


def dense(mera, phi):
    """(batch, *outputs), by contracting the whole network first."""
    inds = [*(mera.site_ind(i) for i in range(mera.nsites)), *mera.output_inds]
    x = mera.contract(output_inds=inds, optimize="greedy").data
    x = np.broadcast_to(x, (len(phi), *x.shape))
    for i in range(mera.nsites):
        x = np.einsum("bi...,bi->b...", x, phi[:, i, : x.shape[1]])
    return x


def embedded(mera, batch=5):
    sizes = [mera.ind_size(mera.site_ind(i)) for i in range(mera.nsites)]
    phi = np.random.default_rng(1).normal(size=(batch, mera.nsites, max(sizes)))
    return phi * (np.arange(max(sizes)) < np.array(sizes)[:, None])


@pytest.mark.parametrize("nsites", [1, 2, 3, 4, 5, 6, 7, 8, 11])
@pytest.mark.parametrize("cyclic", [False, True])
def test_disentanglers_straddle_the_blocks_that_isometries_join(nsites, cyclic):
    mera = random(nsites, cyclic=cyclic)
    assert mera.nsites == mera.L == nsites
    assert set(mera.outer_inds()) == {"out", *(f"k{i}" for i in range(nsites))}
    # An isometry takes away one site, and the top the last two.
    assert len(mera.tag_map["_ISO"]) == max(1, nsites - 1)
    expected, size = 0, nsites
    while size > 2:
        expected += size // 2 - 1 + (cyclic and size % 2 == 0)
        size = (size + 1) // 2
    assert len(disentanglers(mera)) == expected
    assert mera.num_tensors == expected + max(1, nsites - 1)


@pytest.mark.parametrize(
    ("nsites", "cyclic", "pairs"),
    [
        (6, True, [("k1", "k2"), ("k3", "k4"), ("k5", "k0")]),
        (6, False, [("k1", "k2"), ("k3", "k4")]),
        (5, True, [("k1", "k2")]),
    ],
)
def test_a_layer_reads_its_sites_in_turn(nsites, cyclic, pairs):
    mera = random(nsites, cyclic=cyclic)
    assert [t.inds[:2] for t in disentanglers(mera, "_LAYER0")] == pairs
    # A left-over site comes in where it is joined.
    assert nsites != 5 or "k4" in mera["_LAYER2"].inds


def test_tags_are_causal_cones():
    mera = random(8)
    below = {f"k{i}": {i} for i in range(8)}
    for tensor in mera:
        sites = set().union(*(below.get(ind, set()) for ind in tensor.inds))
        below |= {ind: sites for ind in tensor.inds if ind not in below}
        assert {tag for tag in tensor.tags if tag[0] == "I"} == {f"I{i}" for i in sites}


def test_bonds_are_no_larger_than_what_they_carry():
    mera = random(8, bond_dim=10, phys_dim=2)
    assert [t.shape[-1] for t in mera.select(["_ISO", "_LAYER0"])] == [4] * 4
    assert mera.max_bond() == 10
    # The order of ragged sites shows nowhere but at the inputs.
    bonds = [
        sorted(
            size
            for t in random(5, bond_dim=4, phys_dim=phys_dim)
            for ind, size in zip(t.inds, t.shape)
            if ind[0] != "k"
        )
        for phys_dim in (RAGGED, RAGGED[::-1])
    ]
    assert bonds[0] == bonds[1]


# Ends, inputs and outputs are read in different places.
@pytest.mark.some(2)
@pytest.mark.parametrize(
    ("cyclic", "phys_dim", "n_outputs"), mostly_long(pairs([False, True], [2, RAGGED], [None, 3]))
)
def test_outputs_gradients_and_norm_equal_a_dense_contraction(cyclic, phys_dim, n_outputs):
    nsites = 6 if phys_dim == 2 else 5
    with jax.enable_x64(True):
        mera = random(nsites, phys_dim=phys_dim, cyclic=cyclic, n_outputs=n_outputs)
        rng = np.random.default_rng(0)
        for tensor in mera:
            tensor.modify(data=rng.normal(size=tensor.shape))
        phi = embedded(mera)
        packed, structure = pack(mera)
        expected = dense(mera, phi)
        outputs, gradient = jax.jit(
            lambda packed: (
                contract(packed, structure, phi).dense(),
                jax.grad(lambda p: contract(p, structure, phi).dense().sum())(packed),
            )
        )(packed)
        atol = 1e-12 * np.abs(expected).max()
        np.testing.assert_allclose(outputs, expected, rtol=1e-10, atol=atol)
        # An amplitude is linear in every tensor.
        for array, leaf in zip(packed, gradient, strict=True):
            np.testing.assert_allclose(jnp.sum(array * leaf), expected.sum(), rtol=1e-9)
        whole = mera.contract(output_inds=mera.outer_inds(), optimize="greedy").data
        norm = log_norm_squared(packed, structure)
        np.testing.assert_allclose(norm, np.log(np.sum(whole**2)), rtol=1e-10)


@pytest.mark.parametrize("name", names("initializer"))
def test_every_initializer_equals_a_dense_contraction(name):
    with jax.enable_x64(True):
        mera = random(4, cyclic=True, initializer=resolve("initializer", name))
        phi = embedded(mera)
        expected = dense(mera, phi)
        outputs = contract(*pack(mera), phi).dense()
        np.testing.assert_allclose(outputs, expected, rtol=1e-9, atol=1e-12 * abs(expected).max())


@pytest.mark.parametrize("name", names("initializer"))
def test_disentanglers_start_near_the_identity_and_are_it_without_noise(name):
    initializer = resolve("initializer", name)
    options = {"bond_dim": 4, "phys_dim": 3, "cyclic": True}
    for tensor in disentanglers(random(8, initializer=Noiseless(initializer), **options)):
        size = tensor.shape[0] * tensor.shape[1]
        np.testing.assert_array_equal(tensor.data.reshape(size, size), np.eye(size))
    noises = []
    for tensor in disentanglers(random(8, initializer=initializer, **options)):
        size = tensor.shape[0] * tensor.shape[1]
        noises.append(tensor.data.reshape(size, size) - np.eye(size))
        assert 0 < np.linalg.norm(noises[-1], 2) < 0.5
    first, second, *_ = noises
    assert np.abs(first - second).max() > 1e-4


def test_ragged_sites_are_embedded_in_the_largest():
    initializer = LeastSquaresIdentity(std=0.0)
    (first,) = disentanglers(random(5, phys_dim=RAGGED, initializer=initializer))
    assert first.shape == (3, 2, 4, 4)
    matrix = first.data.reshape(6, 16)
    np.testing.assert_array_equal(matrix @ matrix.T, np.eye(6))


@pytest.mark.parametrize("phys_dim", [2, RAGGED])
@pytest.mark.parametrize("name", ["least_squares_identity", "identity"])
def test_the_start_without_noise_answers_with_its_bias_where_nothing_is_known(name, phys_dim):
    initializer = type(resolve("initializer", name))(std=0.0)
    sizes = np.full(5, 2) if phys_dim == 2 else np.array(RAGGED)
    weights = np.random.default_rng(0).uniform(0.2, 1, (5, max(sizes)))
    weights *= np.arange(max(sizes)) < sizes[:, None]
    bias = np.array([0.3, -2.0, 1.0])
    options = {"initializer": initializer, "weights": weights, "output_std": 0.0, "cyclic": True}
    # w . phi = 1, and for the identity on every component sum(phi) = 1.
    phi = weights if name == "least_squares_identity" else (weights > 0).astype(float)
    phi = (phi / (phi**2).sum(axis=1, keepdims=True))[None]
    mera = random(5, phys_dim=phys_dim, output_bias=bias, n_outputs=3, **options)
    np.testing.assert_allclose(dense(mera, phi)[0], bias, rtol=1e-5)
    amplitude = random(5, phys_dim=phys_dim, n_outputs=None, **options)
    np.testing.assert_allclose(dense(amplitude, phi)[0], 1.0, rtol=1e-5)


def test_calibration_leaves_the_isometries_and_the_bias_joins_the_top():
    mera = random(4)
    packed, structure = pack(mera)
    phi = embedded(mera).astype(np.float32)
    packed = calibrate(packed, structure.padded(), phi, std=0.1)
    outputs = contract(packed, structure, phi).dense()
    assert np.sqrt(np.mean(np.square(outputs))) == pytest.approx(0.1, rel=1e-3)
    # Only the top, which is zero without its noise, took the scale.
    for before, after in zip(pack(mera)[0][:-1], packed[:-1], strict=True):
        np.testing.assert_array_equal(before, after)
    other = pack(random(4, output_std=0.0, output_bias=[1.0, -1.0]))[0]
    total = structure.with_bias(packed, other)
    for i, (a, b, c) in enumerate(zip(packed, other, total, strict=True)):
        np.testing.assert_array_equal(c, a + b if i == len(total) - 1 else a)


@pytest.mark.parametrize("cyclic", [False, True])
@pytest.mark.parametrize("phys_dim", [2, RAGGED])
def test_what_quimb_and_packing_do_keeps_the_class(phys_dim, cyclic):
    mera = random(5, phys_dim=phys_dim, cyclic=cyclic)
    plain = mera.view_as(qtn.TensorNetwork)
    assert type(plain) is qtn.TensorNetwork
    ours = {name: getattr(mera, name) for name in ("output_inds", "site_ind_id", "site_tag_id")}
    again = [
        mera.copy(),
        mera / 1.0,
        unpack(*pack(mera)),
        unpack(*pack(unpack(*pack(mera)))),
        plain.view_as(MERA, L=5, cyclic=cyclic, **ours),
        plain.view_like(mera),
        from_quimb(mera),
    ]
    for other in again:
        assert type(other) is MERA
        assert other.cyclic is cyclic
        assert other.nsites == 5
        assert other.output_inds == ("out",)
        assert [t.tags for t in other] == [t.tags for t in mera]
        for one, two in zip(other, mera, strict=True):
            np.testing.assert_allclose(one.data, two.data, rtol=1e-6)
        assert pack(other)[1] == pack(mera)[1]
    structure = pack(mera)[1]
    assert from_json(to_json(structure)) == structure
    assert isinstance(mera.view_as(qtn.MERA), qtn.MERA)


def test_unpacked_sites_and_tags_keep_their_names():
    shapes = [t.shape for t in random(4)]
    mera = MERA(
        [np.ones(shape) for shape in shapes], 4, output_inds=("y",), site_ind_id="x{}",
        site_tag_id="S{}",
    )  # fmt: skip
    again = unpack(*pack(mera))
    assert set(again.outer_inds()) == {"x0", "x1", "x2", "x3", "y"}
    assert again.site_tag(0) == "S0"
    assert [t.tags for t in again] == [t.tags for t in mera]


def test_what_quimb_contracts_is_what_is_trained():
    mera = random(6)
    for tensor in mera.select("_ISO"):
        tensor.modify(data=np.random.default_rng(0).normal(size=tensor.shape))
    phi = embedded(mera, 3)
    assert mera.draw(color=["_UNI", "_ISO"], return_fig=True).axes
    vectors = [qtn.Tensor(v, [f"k{i}"]) for i, v in enumerate(phi[1])]
    expected = qtn.TensorNetwork([*mera, *vectors]).contract(output_inds=["out"]).data
    outputs = contract(*pack(mera), phi.astype(np.float32)).dense()
    np.testing.assert_allclose(outputs[1], expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: random(0), "nsites must be an integer of at least 1"),
        (lambda: random(bond_dim=0), "bond_dim must be an integer of at least 1"),
        (lambda: random(n_outputs=0), "n_outputs must be an integer of at least 1"),
        (lambda: random(phys_dim=[2, 2]), "2 entries for 8 sites"),
        (lambda: random(weights=np.ones((6, 3))), r"weights must have the shape \(8, 2\)"),
        (lambda: MERA([np.ones((2, 2))], 4), "4 sites has 4 tensors, got 1 arrays"),
        (lambda: MERA([np.ones(2)], 2), "has 1 axes where 2 are expected"),
        (lambda: MERA([np.ones((2, 2, 3)), np.ones((2, 2))], 3), "share a bond"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def planned(mera, batch=16, what=contract):
    """Outputs or norm with shapes only, which is where what cannot fit is refused."""
    packed, structure = pack(mera)
    shape = (batch, structure.nsites, structure.phys_dim)
    rest = (jax.ShapeDtypeStruct(shape, np.float32),) if what is contract else ()
    return jax.eval_shape(lambda packed, *rest: what(packed, structure, *rest), packed, *rest)


def named(error):
    """The bond_dim that a refusal names."""
    return int(re.search(r"smaller bond_dim, at most (\d+)\b", str(error.value))[1])


@pytest.mark.some(2)
@pytest.mark.parametrize(
    ("nsites", "cyclic", "phys_dim", "what", "limit"),
    [
        (12, False, 3, contract, 2**11),
        (11, False, [2, 3, 2, 4] + [3] * 7, contract, 2**11),
        (12, True, 2, contract, 2**10),
        (12, False, 2, log_norm_squared, 2**11),
    ],
)
def test_the_bond_dim_that_a_refusal_names_passes(
    monkeypatch, nsites, cyclic, phys_dim, what, limit
):
    monkeypatch.setattr(_generic, "MAX_INTERMEDIATE", limit)

    def plan(bond_dim):
        mera = random(nsites, bond_dim=bond_dim, cyclic=cyclic, phys_dim=phys_dim)
        return planned(mera, 4, what)

    with pytest.raises(ContractionTooLargeError) as error:
        plan(9)
    bond_dim = named(error)
    assert 1 < bond_dim < 9
    plan(bond_dim)
    with pytest.raises(ContractionTooLargeError):
        plan(bond_dim + 1)


def test_the_number_of_sites_that_a_refusal_names_passes(monkeypatch):
    monkeypatch.setattr(_generic, "MAX_INTERMEDIATE", 2**9)
    options = {"phys_dim": 3, "bond_dim": 3, "cyclic": True}
    with pytest.raises(ContractionTooLargeError, match=r"at most \d+ sites\.") as error:
        planned(random(12, **options))
    assert "bond_dim, at most" not in str(error.value)
    nsites = int(re.search(r"(\d+) sites", str(error.value))[1])
    assert 1 < nsites < 12
    planned(random(nsites, **options))
    with pytest.raises(ContractionTooLargeError):
        planned(random(nsites + 1, **options))


@pytest.mark.long
def test_the_largest_size_that_fits_is_finite_in_single_precision(monkeypatch):
    monkeypatch.setattr(_generic, "MAX_INTERMEDIATE", 2**12)
    with pytest.raises(ContractionTooLargeError) as error:
        planned(random(16, bond_dim=32), 8)
    packed, structure = pack(random(16, bond_dim=named(error)))
    phi = np.random.default_rng(0).uniform(0.5, 1.5, (8, 16, 2)).astype(np.float32)
    packed = calibrate(packed, structure, phi, std=0.1)
    value, gradient = jax.jit(
        jax.value_and_grad(lambda p: jnp.sum(contract(p, structure, phi).dense() ** 2))
    )(packed)
    assert value == pytest.approx(0.1**2 * 16, rel=1e-3)
    assert all(np.isfinite(leaf).all() and np.any(leaf != 0) for leaf in gradient)


def test_estimators_refuse_before_they_train(monkeypatch):
    X = np.random.default_rng(0).normal(size=(40, 8))
    y = (X[:, 0] > 0).astype(int)
    monkeypatch.setattr(_generic, "MAX_INTERMEDIATE", 2**8)
    epochs = []
    model = TNClassifier(network="mera", n_members=1, callbacks=[epochs.append])
    with pytest.raises(ContractionTooLargeError, match="at most"):
        model.fit(X, y)
    assert not epochs


@pytest.mark.long
def test_members_read_ragged_sites_in_different_orders():
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], 40)
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({f"x{i}": rng.normal(size=80) + (i == 1) * 3 * y for i in range(3)})
    frame["c"] = rng.choice(list("uvwxy"), 80)
    frame["d"] = np.where(y, "p", "q")
    model = TNClassifier(
        network=MERASpec(cyclic=True), n_members=2, bond_dim=3, max_epochs=60, random_state=1
    ).fit(frame, y)
    assert model.score(frame, y) > 0.9
    sizes = [tuple(member.ind_size(f"k{i}") for i in range(5)) for member in model.networks_]
    assert len(set(sizes)) > 1
    for order, size in zip(model.orders_, sizes, strict=True):
        assert size == tuple(np.array([3, 3, 3, 5, 2])[order])


def test_specs_make_their_networks():
    spec = MERASpec(cyclic=True)
    assert from_json(to_json(spec)) == spec
    assert resolve("network", "mera") == MERASpec()
    for cyclic, count in ((False, 4), (True, 6)):
        mera = MERASpec(cyclic).random(8, bond_dim=2, key=jax.random.key(0))
        assert mera.cyclic is cyclic
        assert len(disentanglers(mera)) == count
