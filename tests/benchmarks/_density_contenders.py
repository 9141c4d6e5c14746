"""The training step of a density by the Born rule, an open chain, in every library.

A contender takes a Case and returns ``run(k)`` as those of _contenders.py do. A step is the
trigonometric embedding of raw features, the mean of -log |psi(x)|^2 + log <psi|psi>, its backward
pass and Adam, on one fixed batch.
"""

import dataclasses

import _contenders
from _contenders import NOISE, sgemm, torch_run

__all__ = ["Case", "ours", "pytorch", "sgemm", "tensorkrowch"]


@dataclasses.dataclass(frozen=True)
class Case(_contenders.Case):
    """One size, without classes."""

    n_classes: int | None = None

    @property
    def flops(self):
        """Those of the amplitudes, and of the norm: two products forward, three backward."""
        return 6 * self.n * self.d * self.D**2 * self.B + 10 * self.n * self.d * self.D**3


def ours(case):
    return _contenders.ours(case)


def tensorkrowch(case, inline_mats):
    """Its amplitudes and its norm, between which a network has to be reset."""
    import tensorkrowch as tk

    model = tk.models.MPS(
        n_features=case.n,
        phys_dim=case.d,
        bond_dim=case.D,
        boundary="obc",
        init_method="randn_eye",
        std=NOISE,
    )
    model.auto_stack, model.auto_unbind = True, False

    def loss(phi, _):
        # Renormalised contractions forget the scale of each sample.
        amplitudes = model(phi, inline_input=False, inline_mats=inline_mats)
        model.reset()
        log_norm = model.norm(log_scale=True)
        model.reset()
        return 2 * log_norm - 2 * amplitudes.abs().log().mean()

    return torch_run(loss, model.parameters(), case)


def pytorch(case):
    """The recurrences by hand: a product per site, rescaled, for samples and for the norm."""
    import torch

    eye = torch.eye(case.D).repeat(case.n, case.d, 1, 1) / case.d**0.5
    cores = torch.nn.Parameter((eye + NOISE * torch.randn_like(eye)).transpose(1, 2).contiguous())

    def rescaled(x, axes):
        size = x.detach().abs().amax(axes, keepdim=True)
        return x / size, size.log()

    def loss(phi, _):
        state = torch.zeros(len(phi), case.D)
        double = torch.zeros(case.D, case.D)
        state[:, 0] = double[0, 0] = 1
        log, log_norm = torch.zeros(len(phi), 1), torch.zeros(1, 1)
        for i, core in enumerate(cores.flatten(1, 2)):
            state = (state[:, :, None] * phi[:, i, None]).flatten(1) @ core
            state, size = rescaled(state, 1)
            log = log + size
            half = (double @ core.reshape(case.D, -1)).reshape(-1, case.D)
            double, size = rescaled(core.T @ half, (0, 1))
            log_norm = log_norm + size
        log = log[:, 0] + state[:, 0].abs().log()
        return (log_norm[0, 0] + double[0, 0].log()) - 2 * log.mean()

    return torch_run(loss, [cores], case)
