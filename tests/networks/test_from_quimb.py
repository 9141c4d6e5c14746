"""Taking a quimb network as a model."""

import numpy as np
import pytest
import quimb.tensor as qtn

from tn4ml_plus.networks import MPS, Network, from_quimb


def path(*extra):
    """k0 - k1 - k2 with bonds a and b, and the indices `extra` on the last tensor."""
    inds = [("k0", "a"), ("a", "k1", "b"), ("b", "k2", *extra)]
    return qtn.TensorNetwork([qtn.Tensor(np.ones([2] * len(i)), i, tags=i[0]) for i in inds])


@pytest.mark.parametrize("cyclic", [False, True])
def test_matrix_product_state_becomes_mps(cyclic):
    network = qtn.MPS_rand_state(5, 3, cyclic=cyclic, tags="KET")
    mps = from_quimb(network)
    assert type(mps) is MPS
    assert (mps.output_inds, mps.output_site, mps.cyclic) == ((), None, cyclic)
    assert "KET" in mps.tags
    assert mps[2].inds == network[2].inds
    assert mps[2].data is network[2].data


def test_outputs_on_one_site_stay_an_mps():
    network = qtn.MPS_rand_state(5, 3)
    network[3].new_ind("out", 4)
    mps = from_quimb(network)
    assert type(mps) is MPS
    assert (mps.output_inds, mps.output_site) == (("out",), 3)


def two_output_sites(mps):
    mps[1].new_ind("left", 2)
    mps[3].new_ind("right", 2)


def two_bonds(mps):
    mps[1].new_ind("other", 2)
    mps[2].new_ind("other", 2)


def long_bond(mps):
    mps[0].new_ind("other", 2)
    mps[3].new_ind("other", 2)


def extra_tensor(mps):
    mps.add_tensor(qtn.Tensor(np.eye(2), ("k4", "new")))
    mps.reindex_({"k4": "joined", "new": "k4"})


def inputs_in_another_order(mps):
    mps.reindex_({"k0": "k1", "k1": "k0"})


@pytest.mark.parametrize(
    "change", [two_output_sites, two_bonds, long_bond, extra_tensor, inputs_in_another_order]
)
def test_what_an_mps_cannot_hold_becomes_a_network(change):
    mps = qtn.MPS_rand_state(5, 3)
    change(mps)
    network = from_quimb(mps)
    assert type(network) is Network
    assert network.nsites == 5


def test_two_cyclic_sites_become_a_network():
    network = qtn.MatrixProductState([np.ones((3, 3, 2))] * 2)
    assert network.cyclic
    assert type(from_quimb(network)) is Network


def test_ours_pass_as_they_are():
    mps, network = from_quimb(qtn.MPS_rand_state(4, 2)), from_quimb(path())
    assert from_quimb(mps) is mps
    assert from_quimb(network) is network


def test_inputs_and_outputs():
    network = from_quimb(path("out", "more"))
    assert network.nsites == 3
    assert network.phys_dims == (2, 2, 2)
    assert network.output_inds == ("out", "more")
    assert from_quimb(path("out", "more"), ("more", "out")).output_inds == ("more", "out")
    assert from_quimb(network, ("more", "out")).output_inds == ("more", "out")


def test_an_input_may_be_made_an_output():
    network = from_quimb(path(), ("k2",))
    assert (network.nsites, network.output_inds) == (2, ("k2",))


def test_other_names_of_inputs():
    network = path().reindex({f"k{i}": f"in{i}," for i in range(3)})
    assert from_quimb(network, site_ind_id="in{},").nsites == 3


def test_copy_and_view_as_keep_what_it_knows():
    network = from_quimb(path("out"))
    kwargs = {"site_ind_id": "k{}", "nsites": 3, "output_inds": ("out",)}
    for other in (network.copy(), network.view_as(Network), path("out").view_as(Network, **kwargs)):
        assert type(other) is Network
        assert (other.nsites, other.output_inds, other.site_ind(2)) == (3, ("out",), "k2")


def test_the_given_network_stays_as_it_was():
    mps = qtn.MPS_rand_state(4, 2)
    from_quimb(mps)
    assert type(mps) is qtn.MatrixProductState


@pytest.mark.parametrize(
    ("network", "kwargs", "message"),
    [
        (path().reindex({"k1": "k3"}), {}, "no input k1.*reindex"),
        (path().reindex({f"k{i}": f"x{i}" for i in range(3)}), {}, "no input k0.*x0.*reindex"),
        (path().reindex({"a": "k3"}), {}, "k3 appear more than once.*COPY_tensor"),
        (path("out", "more"), {"output_inds": ["out"]}, "more are neither.*sum_reduce"),
        (path("out"), {"output_inds": ["other"]}, "indices of the network"),
        (path("out"), {"output_inds": ["out", "out"]}, "different indices"),
        (path(), {"site_ind_id": "k"}, "no input"),
        (qtn.TensorNetwork([]), {}, "no input k0"),
    ],
)
def test_errors_name_the_remedy(network, kwargs, message):
    with pytest.raises(ValueError, match=message):
        from_quimb(network, **kwargs)
