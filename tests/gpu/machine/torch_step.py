"""scvi-tools 1.4.2's training step in PyTorch alone: the modules of SCVI and LinearSCVI with their
default settings and one batch column, their parameters' names, losses, optimiser and minibatches.

For machines that have PyTorch but not scvi-tools. What Lightning and scvi-tools add around the step
(metrics, logging, callbacks) is left out. Where scvi-tools is at hand, ../torch_step_test.py holds
both together: the same weights, minibatch and seed give the same loss, gradients and next weights.
"""
import collections

import numpy as np
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence
from torch.distributions.utils import broadcast_all
from torch.nn.functional import one_hot, softplus

EPS = 1e-8


class Layers(nn.Module):
    """One layer: linear, BatchNorm, and what follows."""

    def __init__(self, n_in, n_out, n_batch, bias=True, after=()):
        super().__init__()
        self.n_batch = n_batch if n_batch > 1 else 0
        self.fc_layers = nn.Sequential(collections.OrderedDict([("Layer 0", nn.Sequential(
            nn.Linear(n_in + self.n_batch, n_out, bias=bias),
            nn.BatchNorm1d(n_out, momentum=0.01, eps=0.001), *after))]))

    def forward(self, x, batch):
        if self.n_batch:
            x = torch.cat((x, one_hot(batch.squeeze(-1), self.n_batch)), dim=-1)
        return self.fc_layers(x)


class Encoder(nn.Module):
    def __init__(self, n_genes, n_latent, n_hidden, dropout):
        super().__init__()
        self.encoder = Layers(n_genes, n_hidden, 0, after=(nn.ReLU(), nn.Dropout(dropout)))
        self.mean_encoder = nn.Linear(n_hidden, n_latent)
        self.var_encoder = nn.Linear(n_hidden, n_latent)

    def forward(self, x):
        hidden = self.encoder(x, None)
        mean = self.mean_encoder(hidden)
        variance = torch.exp(self.var_encoder(hidden)) + 1e-4
        q = Normal(mean, variance.sqrt())
        return q, q.rsample()


class Decoder(nn.Module):
    def __init__(self, n_latent, n_genes, n_batch, n_hidden):
        super().__init__()
        self.px_decoder = Layers(n_latent, n_hidden, n_batch, after=(nn.ReLU(),))
        self.px_scale_decoder = nn.Sequential(nn.Linear(n_hidden, n_genes), nn.Softmax(dim=-1))
        self.px_r_decoder = nn.Linear(n_hidden, n_genes)  # there, though nothing uses it
        self.px_dropout_decoder = nn.Linear(n_hidden, n_genes)

    def forward(self, z, batch):
        hidden = self.px_decoder(z, batch)
        return self.px_scale_decoder(hidden), self.px_dropout_decoder(hidden)


class LinearDecoder(nn.Module):
    def __init__(self, n_latent, n_genes, n_batch):
        super().__init__()
        self.factor_regressor = Layers(n_latent, n_genes, n_batch, bias=False)
        self.px_dropout_decoder = Layers(n_latent, n_genes, n_batch, bias=False)

    def forward(self, z, batch):
        scale = torch.softmax(self.factor_regressor(z, batch), dim=-1)
        return scale, self.px_dropout_decoder(z, batch)


def log_nb(x, mu, theta):
    """log_nb_positive of scvi-tools."""
    log_theta_mu = torch.log(theta + mu + EPS)
    return (theta * (torch.log(theta + EPS) - log_theta_mu)
            + x * (torch.log(mu + EPS) - log_theta_mu)
            + torch.lgamma(x + theta) - torch.lgamma(theta) - torch.lgamma(x + 1))


def log_zinb(x, mu, theta, pi):
    """log_zinb_positive of scvi-tools."""
    softplus_pi = softplus(-pi)
    log_theta = torch.log(theta + EPS)
    log_theta_mu = torch.log(theta + mu + EPS)
    pi_theta = -pi + theta * (log_theta - log_theta_mu)
    zero = softplus(pi_theta) - softplus_pi
    more = (-softplus_pi + pi_theta + x * (torch.log(mu + EPS) - log_theta_mu)
            + torch.lgamma(x + theta) - torch.lgamma(theta) - torch.lgamma(x + 1))
    return (torch.mul((x < EPS).type(torch.float32), zero)
            + torch.mul((x > EPS).type(torch.float32), more))


class Model(nn.Module):
    """`checked`: with the checks of values that scvi-tools makes in every step, for each of which
    the host waits for the GPU; without them is the best case."""

    def __init__(self, n_genes, n_batch, linear, likelihood, library=None, n_hidden=128, n_latent=10,
                 dropout=0.1, checked=True):
        super().__init__()
        self.linear, self.likelihood, self.checked = linear, likelihood, checked
        if linear:  # latent library sizes: means and variances of log counts in each batch
            self.register_buffer("library_log_means", torch.as_tensor(library[0]).float())
            self.register_buffer("library_log_vars", torch.as_tensor(library[1]).float())
        self.n_batch = n_batch
        self.px_r = nn.Parameter(torch.randn(n_genes))
        self.z_encoder = Encoder(n_genes, n_latent, n_hidden, dropout)
        self.l_encoder = Encoder(n_genes, 1, n_hidden, dropout)
        self.decoder = LinearDecoder(n_latent, n_genes, n_batch) if linear else \
            Decoder(n_latent, n_genes, n_batch, n_hidden)
        torch.distributions.Distribution.set_default_validate_args(checked)

    def log_likelihood(self, x, mu, theta, pi):
        # as matrices, one value a gene or not: their distributions broadcast what they are given
        mu, theta, pi = broadcast_all(mu, theta, pi)
        if self.likelihood == "nb":
            return log_nb(x, mu, theta)
        if self.checked and not bool(((x % 1 == 0) & (x >= 0)).all()):
            raise ValueError("not counts")  # the others' distribution looks at every minibatch
        return log_zinb(x, mu, theta, pi)

    def forward(self, x, batch, kl_weight):
        """The loss of a minibatch."""
        logged = torch.log1p(x)
        qz, z = self.z_encoder(logged)
        if self.linear:
            ql, library = self.l_encoder(logged)
            own = one_hot(batch.squeeze(-1), self.n_batch).float()
            prior = Normal(nn.functional.linear(own, self.library_log_means),
                           nn.functional.linear(own, self.library_log_vars).sqrt())
            kl_library = kl_divergence(ql, prior).sum(dim=1)
        else:
            library = torch.log(x.sum(1)).unsqueeze(1)
            kl_library = 0.0
        scale, pi = self.decoder(z, batch)
        rate = torch.exp(library) * scale
        reconstruction = -self.log_likelihood(x, rate, torch.exp(self.px_r), pi).sum(-1)
        kl = kl_divergence(qz, Normal(torch.zeros_like(z), torch.ones_like(z))).sum(dim=-1)
        return torch.mean(reconstruction + (kl_weight * kl + kl_library))


def optimizer_of(model, **more):
    return torch.optim.Adam(model.parameters(), lr=1e-3, eps=0.01, weight_decay=1e-6, **more)


def library_of(counts, batch, n_batch):
    """Means and variances of log library sizes, (1, n_batch) each, as _init_library_size."""
    logs = np.ma.log(np.asarray(counts.sum(axis=1)).ravel())
    logs = np.ma.filled(np.ma.masked_invalid(logs), 0)
    parts = [logs[batch == i] for i in range(n_batch)]
    return (np.array([[part.mean() for part in parts]], dtype=np.float32),
            np.array([[part.var() for part in parts]], dtype=np.float32))


def minibatch_on_host(counts, batch, rows):
    """Dense, of these rows, as AnnTorchDataset and DataLoader cut it: rows is a list."""
    x = torch.as_tensor(counts[rows].astype(np.float32, copy=False).toarray())
    return x, torch.as_tensor(batch[rows].astype(np.int64, copy=False))


def orders(n_cells, minibatch):
    """Full minibatches of cells in random order, epoch after epoch, as lists."""
    while True:
        order = torch.randperm(n_cells)
        for begin in range(0, n_cells - minibatch + 1, minibatch):
            yield order[begin:begin + minibatch].tolist()
