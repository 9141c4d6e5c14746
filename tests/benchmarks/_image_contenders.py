"""The training step of a DTTN, in several forms of its depthwise maps and in other ways.

A contender takes a Case and returns ``run(k)``, which does k steps on one fixed batch, waits for
them and returns the last loss: forward, cross-entropy, backward, AdamW, moments of the batch.
"""

import dataclasses

import numpy as np
from _contenders import LEARNING_RATE, sgemm, torch_steps

__all__ = ["Case", "channels_last", "ours", "sgemm", "torch_network"]

EXPANSIONS = (1, 3)


@dataclasses.dataclass(frozen=True)
class Case:
    """One size: pixels a side, patch, channels, blocks, batch size; with LayerNorm or BatchNorm."""

    side: int
    patch: int
    channels: int
    n_layers: int
    B: int
    dagger: bool = True
    n_classes: int = 10

    @property
    def flops(self):
        """Of the linear maps in a step: 2 for each weight and pixel, and twice that backward."""
        c, per_pixel = self.channels, self.channels * self.patch**2
        for i in range(self.n_layers):
            h = EXPANSIONS[i % 2] * c
            per_pixel += h * h + 2 * h * c + 18 * h
        return 6 * self.B * (self.side // self.patch) ** 2 * per_pixel

    def batch(self):
        """Images (B, side, side) float32 and labels (B,) int32."""
        rng = np.random.default_rng(0)
        images = rng.normal(size=(self.B, self.side, self.side)).astype(np.float32)
        return images, rng.integers(self.n_classes, size=self.B, dtype=np.int32)


def convolved(x, weight):
    """Depthwise maps as XLA's grouped convolution; output o reads channel o % n_in."""
    import jax

    c = len(x)
    groups = weight.reshape(-1, c, 3, 3).swapaxes(0, 1).reshape(-1, 1, 3, 3)
    y = jax.lax.conv_general_dilated(
        x, groups, (1, 1), "SAME",
        dimension_numbers=("CHWN", "OIHW", "CHWN"), feature_group_count=c,
    )  # fmt: skip
    return y.reshape(c, -1, *x.shape[1:]).swapaxes(0, 1).reshape(-1, *x.shape[1:])


def ours(case, form=None):
    """The compiled loop of `ImageGradient`; form: of the depthwise maps, None for our choice."""
    import jax
    import jax.numpy as jnp

    from tn4ml_plus.image import DTTN, BatchNormProduct, LayerNormProduct, Variant
    from tn4ml_plus.image import _maps as maps
    from tn4ml_plus.training import LabelledImages
    from tn4ml_plus.training._gradient import Minibatches
    from tn4ml_plus.training.images._gradient import Program, _adamw, _epoch

    if form is not None:
        maps.depthwise = convolved if form == "convolved" else getattr(maps, form)
    variant = Variant((case.channels,), (case.n_layers,), (case.patch,), EXPANSIONS)
    merge = LayerNormProduct if case.dagger else BatchNormProduct
    shape, key = (case.side, case.side), jax.random.key(0)
    model = DTTN(variant, shape, case.n_classes, merge=merge, key=key)
    images, target = case.batch()
    ones = np.ones(case.B, np.float32)
    samples = LabelledImages.padded(images[..., None], target, ones, np.zeros(1, "f4"), ones[:1])
    program = Program(_adamw(0.05, 1.0), (), case.n_classes, 0.0, None, "float32")
    params, state = (model,), jax.jit(program.optimizer.init)(model)
    batches = np.tile(np.arange(case.B, dtype=np.int32), (64, 1))
    rates = np.full(64, LEARNING_RATE, np.float32)

    def run(k):
        nonlocal params, state
        epoch = Minibatches(batches, rates, k)
        params, state, loss = _epoch(program, params, state, samples, epoch, jax.random.key(0))
        return float(jnp.asarray(loss)) / k

    return run


def channels_last(case, form):
    """Maps (batch, height, width, channels) in plain JAX; depthwise by shifts or convolution."""
    import jax
    import jax.numpy as jnp
    import optax

    rng = np.random.default_rng(0)

    def weights(*shape, fan_in):
        return jnp.asarray(rng.normal(size=shape) * np.sqrt(2 / fan_in), jnp.float32)

    def linear(n_in, n_out):
        return {"w": weights(n_in, n_out, fan_in=n_in), "b": jnp.zeros(n_out)}

    def filters(n):
        return {"w": weights(3, 3, n, fan_in=9), "b": jnp.zeros(n)}

    def norm(n):
        return {"w": jnp.ones(n), "b": jnp.zeros(n)}

    c, blocks = case.channels, []
    for i in range(case.n_layers):
        h = EXPANSIONS[i % 2] * c
        block = {
            "depthwise": (filters(h), filters(h)),
            "pointwise": (linear(h, h), linear(c, h), linear(h, c)),
            "norms": (norm(h), norm(h), norm(c)),
            "alpha": jnp.ones(()),
        }
        blocks.append(block)
    params = {
        "stem": linear(case.patch**2, c),
        "blocks": blocks,
        "head": linear(c, case.n_classes),
    }

    def pointwise(p, x):
        return x @ p["w"] + p["b"]

    def depthwise(p, x):
        n, (_, height, width, _) = p["w"].shape[-1], x.shape
        if form == "convolution":
            y = jax.lax.conv_general_dilated(
                x, p["w"][:, :, None], (1, 1), "SAME", feature_group_count=n,
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )  # fmt: skip
            return y + p["b"]
        padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        shifts = (
            padded[:, i : i + height, j : j + width] * p["w"][i, j]
            for i in range(3)
            for j in range(3)
        )
        return sum(shifts) + p["b"]

    def batch_norm(p, x):
        mean = x.mean((0, 1, 2))
        centred = x - mean
        return centred * (p["w"] * jax.lax.rsqrt((centred**2).mean((0, 1, 2)) + 1e-5)) + p["b"]

    def layer_norm(p, x):
        centred = x - x.mean(-1, keepdims=True)
        variance = (centred**2).mean(-1, keepdims=True)
        return centred * jax.lax.rsqrt(variance + 1e-6) * p["w"] + p["b"]

    def loss(params, images, y):
        k, side = case.patch, case.side // case.patch
        x = images.reshape(-1, side, k, side, k).transpose(0, 1, 3, 2, 4)
        x = pointwise(params["stem"], x.reshape(-1, side, side, k * k))
        for i, block in enumerate(params["blocks"]):
            (first, second), (left, right, project) = block["depthwise"], block["pointwise"]
            one, other, last = block["norms"]
            wide = jnp.concatenate([x] * EXPANSIONS[i % 2], -1)
            a = pointwise(left, depthwise(first, wide))
            b = depthwise(second, pointwise(right, x))
            merged = (
                layer_norm(one, a * b) if case.dagger else batch_norm(one, a) * batch_norm(other, b)
            )
            x = x + block["alpha"] * batch_norm(last, pointwise(project, merged))
        log_p = jax.nn.log_softmax(pointwise(params["head"], x.mean((1, 2))))
        return -jnp.take_along_axis(log_p, y[:, None], 1).mean()

    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(LEARNING_RATE))
    state = optimizer.init(params)
    images, y = map(jnp.asarray, case.batch())

    @jax.jit
    def steps(params, state, k):
        def body(_, carry):
            params, state, _ = carry
            value, gradient = jax.value_and_grad(loss)(params, images, y)
            updates, state = optimizer.update(gradient, state, params)
            return optax.apply_updates(params, updates), state, value

        return jax.lax.fori_loop(0, k, body, (params, state, jnp.zeros(())))

    def run(k):
        nonlocal params, state
        params, state, value = steps(params, state, k)
        return float(value)

    return run


def torch_network(case, memory):
    """PyTorch's own layers; memory: "contiguous" or "channels_last" of the maps."""
    import torch
    from torch import nn

    torch.manual_seed(0)

    class ChannelNorm(nn.LayerNorm):
        """Over the channels of every pixel."""

        def forward(self, x):
            return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    class Block(nn.Module):
        def __init__(self, c, h):
            super().__init__()
            self.left = nn.Sequential(nn.Conv2d(c, h, 3, padding=1, groups=c), nn.Conv2d(h, h, 1))
            self.right = nn.Sequential(nn.Conv2d(c, h, 1), nn.Conv2d(h, h, 3, padding=1, groups=h))
            self.project = nn.Sequential(nn.Conv2d(h, c, 1), nn.BatchNorm2d(c))
            if case.dagger:
                self.norm = ChannelNorm(h, eps=1e-6)
            else:
                self.norms = nn.ModuleList([nn.BatchNorm2d(h), nn.BatchNorm2d(h)])
            self.alpha = nn.Parameter(torch.ones(()))

        def forward(self, x):
            a, b = self.left(x), self.right(x)
            merged = self.norm(a * b) if case.dagger else self.norms[0](a) * self.norms[1](b)
            return x + self.alpha * self.project(merged)

    c, k = case.channels, case.patch
    blocks = [Block(c, EXPANSIONS[i % 2] * c) for i in range(case.n_layers)]
    model = nn.Sequential(
        nn.Conv2d(1, c, k, k), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(c, case.n_classes),
    )  # fmt: skip
    images, y = map(torch.from_numpy, case.batch())
    images = images[:, None]
    if memory == "channels_last":
        model, images = (each.to(memory_format=torch.channels_last) for each in (model, images))
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)
    y = y.long()

    def step():
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images), y)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    return torch_steps(step)
