"""Closed forms in numpy for the least-squares student; imports nothing from influbench.

Loss of a row (x·w - y)²; gradient 2(x·w - y)x; mean loss over rows X, Y has Hessian H = 2XᵀX/n, so
for any change d of the weights: L(w + d) - L(w) = G·d + ½ dᵀHd, exactly.
"""

from __future__ import annotations

import numpy as np


def gradient(w, x, y):
    return 2 * (x @ w - y) * x


def mean_loss(w, X, Y):
    return float(np.mean((X @ w - Y) ** 2))


def mean_gradient(w, X, Y):
    return 2 * X.T @ (X @ w - Y) / len(Y)


def hessian(X):
    return 2 * X.T @ X / len(X)


def clipped(g, limit):
    return g if limit is None else g * min(1.0, limit / (np.linalg.norm(g) + 1e-6))


def adamw(w, g, m, v, t, *, lr, b1=0.9, b2=0.999, eps=1e-8, decay=0.0):
    """The change of w, and the next m and v, after step t + 1."""
    m = b1 * m + (1 - b1) * g
    v = b2 * v + (1 - b2) * g * g
    t = t + 1
    d = -lr * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps) - lr * decay * w
    return d, m, v
