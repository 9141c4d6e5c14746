"""The same training step in every library; each function is called in a process of its own.

A contender takes a Case and returns ``run(k)``, which does k steps, waits for them and returns the
last loss. A step is the trigonometric embedding of raw features, the forward pass of a chain with
its output core in the middle, cross-entropy, the backward pass and Adam, on one fixed batch.
Libraries are imported inside, since no environment has them all.
"""

import dataclasses
import math
import sys
import timeit
from functools import partial

import numpy as np

LEARNING_RATE = 1e-3
# In a call, of which the best counts: each call of tn4ml compiles anew, above all in its first.
SWEEPS = 3
NOISE = 1e-2
# tn4ml and quimb leave the contraction's scale alone; tn4ml's float32 loss is NaN from here on.
TN4ML_FLOAT32_SITES = 63


@dataclasses.dataclass(frozen=True)
class Case:
    """One size: sites, physical dimension, bond dimension, batch size, classes; chain or tree."""

    n: int
    d: int
    D: int
    B: int
    n_classes: int | None = 10
    tree: bool = False

    @property
    def flops(self):
        """Useful floating-point operations of a step: forward, and twice that backward."""
        if self.tree:
            return 6 * self.B * sum(map(math.prod, self.nodes().values()))
        return 6 * self.n * self.d * self.D**2 * self.B

    def nodes(self):
        """Shapes (child, child, up) of a balanced binary tree's nodes by (child, child, up).

        Numbers count the leaves first; what is left over of a layer takes part in the next one.
        """
        found, layer, number = {}, [(i, self.d) for i in range(self.n)], self.n
        while len(layer) > 1:
            above = []
            for (i, a), (j, b) in zip(layer[::2], layer[1::2]):
                up = self.n_classes if len(layer) == 2 else min(self.D, a * b)
                found[i, j, number] = a, b, up
                above.append((number, up))
                number += 1
            layer = above + layer[2 * len(above) :]
        return found

    def batch(self):
        """Features (B, n) float32 in [0, 1] and labels (B,) int32."""
        rng = np.random.default_rng(0)
        x = rng.random((self.B, self.n), dtype=np.float32)
        return x, rng.integers(self.n_classes or 1, size=self.B, dtype=np.int32)


def ours(case, **options):
    """Options: of `make_step`."""
    import jax.numpy as jnp
    from _ours import make_step

    state, step = make_step(case, **options)
    x, y = map(jnp.asarray, case.batch())

    def run(k):
        nonlocal state
        for _ in range(k):
            state, loss = step(state, x, y)
        return float(loss)

    return run


def our_sweeps(case):
    """Two-site sweeps over all samples."""
    from _ours import make_sweeps

    return make_sweeps(case, *case.batch())


def tn4ml_model(case):
    """A chain as tn4ml's documentation builds it, in x64 where its float32 gives NaN."""
    import jax

    jax.config.update("jax_enable_x64", case.n > TN4ML_FLOAT32_SITES)
    import jax.numpy as jnp
    from tn4ml.initializers import randn
    from tn4ml.models.mps import MPS_initialize

    x, y = case.batch()
    dtype = jnp.float64 if case.n > TN4ML_FLOAT32_SITES else jnp.float32
    model = MPS_initialize(
        case.n,
        initializer=randn(NOISE),
        key=jax.random.key(0),
        dtype=dtype,
        shape_method="noteven",
        bond_dim=case.D,
        phys_dim=case.d,
        cyclic=False,
        add_identity=True,
        class_dim=case.n_classes,
        class_index=case.n // 2,
        boundary="obc",
    )
    return model, jnp.asarray(x, dtype), jax.nn.one_hot(y, case.n_classes, dtype=dtype)


def tn4ml_bare(case):
    """tn4ml's network, embedding and loss, compiled whole by hand: no train loop around."""
    import jax.numpy as jnp
    import optax
    from jax import vmap
    from tn4ml.embeddings import TrigonometricEmbedding, embed
    from tn4ml.metrics import OptaxWrapper

    model, x, y = tn4ml_model(case)
    sample_loss = OptaxWrapper(optax.softmax_cross_entropy)

    def loss(arrays, x, y):
        network = model.copy()
        for tensor, array in zip(network.tensors, arrays):
            tensor.modify(data=array)
        losses = vmap(lambda x, y: sample_loss(network, embed(x, TrigonometricEmbedding()), y))
        return jnp.mean(losses(x, y))

    return jax_run(loss, tuple(model.arrays), x, y)


def tn4ml_sweeps(case):
    """Epochs of tn4ml's two-site sweeps, with all samples as one batch."""
    import optax
    from tn4ml.embeddings import TrigonometricEmbedding
    from tn4ml.metrics import OptaxWrapper
    from tn4ml.util import TrainingType

    model, x, y = tn4ml_model(case)
    model.configure(
        strategy="sweeps",
        optimizer=optax.adam,
        loss=OptaxWrapper(optax.softmax_cross_entropy),
        train_type=TrainingType.SUPERVISED,
        learning_rate=LEARNING_RATE,
    )

    def run(k):
        del k
        options = {"batch_size": case.B, "embedding": TrigonometricEmbedding(), "dtype": x.dtype}
        model.train(x, targets=y, epochs=SWEEPS, **options)
        return float(model.history["loss"][-1])

    run.seconds = lambda k: k * min(model.history["epoch_time"][-SWEEPS:])
    return run


def tn4ml_train(case):
    """The step that tn4ml's `train` builds and calls for each batch."""
    import optax
    from tn4ml.embeddings import TrigonometricEmbedding
    from tn4ml.metrics import OptaxWrapper
    from tn4ml.util import TrainingType

    model, x, y = tn4ml_model(case)
    model.configure(
        strategy="global",
        optimizer=optax.adam,
        loss=OptaxWrapper(optax.softmax_cross_entropy),
        train_type=TrainingType.SUPERVISED,
        learning_rate=LEARNING_RATE,
    )
    model.train(
        x,
        targets=y,
        batch_size=case.B,
        epochs=1,
        embedding=TrigonometricEmbedding(),
        dtype=x.dtype,
    )

    def run(k):
        for _ in range(k):
            _, model.opt_state, loss = model.step(model.arrays, model.opt_state, (x, y))
        return float(loss)

    return run


def tensorkrowch(case, inline_mats):
    import tensorkrowch as tk
    import torch

    model = tk.models.MPSLayer(
        n_features=case.n + 1,
        in_dim=case.d,
        out_dim=case.n_classes,
        bond_dim=case.D,
        boundary="obc",
        out_position=case.n // 2,
        init_method="randn_eye",
        std=NOISE,
    )
    model.auto_stack = True
    model.auto_unbind = False
    options = {"inline_input": False, "inline_mats": inline_mats, "renormalize": True}
    model.trace(torch.zeros(1, case.n, case.d), **options)
    logits = partial(model, **options)
    return torch_run(cross_entropy(logits), model.parameters(), case)


def torchmps(case, parallel_eval, repository):
    import torch

    torch.manual_seed(0)
    sys.path.insert(0, repository)
    from torchmps import MPS

    model = MPS(
        input_dim=case.n,
        output_dim=case.n_classes,
        bond_dim=case.D,
        feature_dim=case.d,
        parallel_eval=parallel_eval,
        label_site=case.n // 2,
        init_std=NOISE,
    )
    return torch_run(cross_entropy(model), model.parameters(), case)


def quimb(case, batch, path):
    """quimb's contraction: a vmap over samples, or the batch as an index of the features.

    path: quimb's preset "auto-hq", or "hyper", a longer search around cotengra's greedy method.
    """
    import cotengra
    import jax
    import jax.numpy as jnp
    import quimb.tensor as qtn

    optimize = path
    if path == "hyper":
        optimize = cotengra.HyperOptimizer(
            methods=["greedy"], minimize="combo", max_repeats=16, max_time=30, parallel=False
        )
    tensors = list(_tree(case) if case.tree else _chain(case))
    cores, inds = (
        tuple(jnp.asarray(core, jnp.float32) for core, _ in tensors),
        [i for _, i in tensors],
    )

    def contract(cores, phi, batch_inds):
        features = [qtn.Tensor(phi[..., i], (*batch_inds, f"k{i}")) for i in range(case.n)]
        body = [qtn.Tensor(core, ix) for core, ix in zip(cores, inds)]
        network = qtn.TensorNetwork(body + features)
        return network.contract(output_inds=(*batch_inds, "c"), optimize=optimize).data

    def loss(cores, x, y):
        phi = jnp.stack([jnp.cos(jnp.pi / 2 * x), jnp.sin(jnp.pi / 2 * x)], axis=1)  # (B, d, n)
        if batch == "index":
            logits = contract(cores, phi, ("batch",))
        else:
            logits = jax.vmap(lambda phi: contract(cores, phi, ()))(phi)
        picked = jnp.take_along_axis(logits, y[:, None], axis=1)[:, 0]
        return jnp.mean(jax.nn.logsumexp(logits, axis=1) - picked)

    return jax_run(loss, cores, *map(jnp.asarray, case.batch()))


def _chain(case):
    """Arrays and indices of a chain whose outputs stay within float32."""
    # w with w . phi close to 1 for uniform features.
    w = (2 / np.pi) / (1 / 2 + 1 / np.pi)
    rng = np.random.default_rng(0)
    for i in range(case.n):
        left, right = case.D if i else 1, case.D if i < case.n - 1 else 1
        core = w * np.eye(left, right)[:, None] + NOISE * rng.normal(size=(left, case.d, right))
        ix = [f"b{i - 1}", f"k{i}", f"b{i}"]
        if i == 0:
            core, ix = core[0], ix[1:]
        elif i == case.n - 1:
            core, ix = core[..., 0], ix[:-1]
        if i == case.n // 2:
            core = core[..., None] + NOISE * rng.normal(size=(*core.shape, case.n_classes))
            ix = [*ix, "c"]
        yield core, ix


def _tree(case):
    """Arrays and indices of a balanced binary tree whose outputs stay within float32."""
    # w with w . phi close to 1 for uniform features, handed on as the first channel.
    w = (2 / np.pi) / (1 / 2 + 1 / np.pi)
    rng = np.random.default_rng(0)
    last = max(up for *_, up in case.nodes())
    for children, shape in case.nodes().items():
        core = NOISE * rng.normal(size=shape)
        sizes = zip(children[:2], shape)
        core[..., 0] += np.outer(*((w, w) if i < case.n else np.eye(size)[0] for i, size in sizes))
        names = [f"k{i}" if i < case.n else f"b{i}" for i in children]
        yield core, [*names[:2], "c"] if children[2] == last else names


def jax_run(loss, params, x, y):
    """Adam on ``loss(params, x, y)``, the whole step compiled with its buffers donated."""
    import jax
    import optax

    optimizer = optax.adam(LEARNING_RATE)
    opt_state = optimizer.init(params)

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params, opt_state, x, y):
        value, grads = jax.value_and_grad(loss)(params, x, y)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, value

    def run(k):
        nonlocal params, opt_state
        for _ in range(k):
            params, opt_state, value = step(params, opt_state, x, y)
        jax.block_until_ready(params)
        return float(value)

    return run


def cross_entropy(model):
    """``loss(phi, y)`` of the logits ``model(phi)``."""
    import torch

    return lambda phi, y: torch.nn.functional.cross_entropy(model(phi), y)


def torch_run(loss, parameters, case):
    """Adam on ``loss(phi, y)`` with phi (B, n, d)."""
    import torch

    torch.set_flush_denormal(True)
    optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE, fused=True)
    x, y = case.batch()
    x, y = torch.from_numpy(x), torch.from_numpy(y).long()

    def step():
        angle = torch.pi / 2 * x
        phi = torch.stack([angle.cos(), angle.sin()], dim=-1)
        optimizer.zero_grad()
        value = loss(phi, y)
        value.backward()
        optimizer.step()
        return value.item()

    return torch_steps(step)


def torch_steps(step):
    """``run(k)`` of a function that does one step, on one thread or on all."""
    import torch

    def run(k):
        for _ in range(k):
            loss = step()
        return loss

    def step_seconds(threads):
        torch.set_num_threads(threads)
        first = timeit.timeit(step, number=1)
        return first if first > 1 else min(timeit.repeat(step, number=1, repeat=4))

    # Small tensors can be faster on one thread than on all; the peer gets the better of the two.
    step()
    torch.set_num_threads(min((1, torch.get_num_threads()), key=step_seconds))
    return run


SGEMM_SIZE = 768


def sgemm(case, library, size=SGEMM_SIZE):
    """The float32 matrix product that shares are taken of; the same for every case."""
    a, b = np.random.default_rng(0).random((2, size, size), dtype=np.float32)
    if library == "numpy":
        product = np.matmul
    else:
        import jax

        a, b = jax.device_put((a, b))
        matmul = jax.jit(jax.numpy.matmul)

        def product(a, b):
            return matmul(a, b).block_until_ready()

    def run(k):
        for _ in range(k):
            c = product(a, b)
        return float(c[0, 0])

    return run
