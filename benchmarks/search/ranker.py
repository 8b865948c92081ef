"""What is learned from features of a pair: a small network, and gradient-boosted trees beside it."""

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingRegressor
from torch import nn

from benchmarks.search.judged import Floats

Matrix = NDArray[np.float32]

NETWORKS = 3
"""Networks of different seeds whose answers are averaged."""
EPOCHS, BATCH, WIDTH = 12, 256, 64


def network(features: Matrix, relevance: Floats, asked: Matrix) -> Floats:
    """Relevance of the rows `asked`, by networks of two layers on standardised features, with their squares' help."""
    mean, scale = features.mean(0), features.std(0) + 1e-6
    rows, questions = (torch.from_numpy((m - mean) / scale).clamp(-5, 5) for m in (features, asked))
    centre = float(relevance.mean())
    target = torch.from_numpy((relevance - centre).astype(np.float32))
    answers = [_network(rows, target, questions, seed) for seed in range(NETWORKS)]
    return np.asarray(np.mean(answers, axis=0) + centre, np.float64)


def trees(features: Matrix, relevance: Floats, asked: Matrix) -> Floats:
    """The same by gradient boosting."""
    model = HistGradientBoostingRegressor(
        max_iter=250, learning_rate=0.05, min_samples_leaf=40, l2_regularization=1.0, random_state=0
    )
    return np.asarray(model.fit(features, relevance).predict(asked), np.float64)


def _network(rows: torch.Tensor, target: torch.Tensor, questions: torch.Tensor, seed: int) -> NDArray[np.float32]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = (nn.Linear(rows.shape[1], WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, 1))
        model = nn.Sequential(*layers)
        optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
        count = EPOCHS * -(-len(rows) // BATCH)
        fall = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=count)
        for _ in range(EPOCHS):
            for places in torch.randperm(len(rows)).split(BATCH):
                loss = (model(rows[places]).squeeze(1) - target[places]).square().mean()
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                fall.step()
        with torch.no_grad():
            answer: NDArray[np.float32] = model(questions).squeeze(1).numpy()
    return answer
