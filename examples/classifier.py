"""A classifier made thin: N:M sparsity is not only for restoration.

    pip install 'thinlens[demo]' scikit-learn
    python examples/classifier.py

A small network learns the handwritten digits of scikit-learn in a few seconds; thinlens then
keeps a quarter of its multiply-adds, without labels: the dense network's outputs are the targets.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import thinlens


class Classifier(nn.Module):
    """Four convolutions, a mean over the image, and one score for each of ten digits."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1),
            nn.ReLU(),
        )
        self.scores = nn.Linear(2 * width, 10)

    def forward(self, image: Tensor) -> Tensor:
        """Map images `[B, 1, 8, 8]` to scores `[B, 10]`."""
        return self.scores(self.features(image).mean((2, 3)))


def digits() -> tuple[Tensor, Tensor]:
    """Return the images `[1797, 1, 8, 8]` in [0, 1], and their digits."""
    data = load_digits()
    return torch.tensor(data.images / 16, dtype=torch.float32)[:, None], torch.tensor(data.target)


def train(network: nn.Module, images: Tensor, labels: Tensor, epochs: int = 6) -> None:
    """Train `network` by Adam."""
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(50):
            loss = nn.functional.cross_entropy(network(images[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def main(
    epochs: int = 6,
    methods: Sequence[str] = ("one-shot", "least-squares"),
) -> dict[str, float]:
    """Return the dense network's accuracy, and how often each thin one gives the same digit."""
    torch.manual_seed(0)
    images, labels = digits()
    known, unseen = images[:1400], images[1400:]
    network = Classifier()
    train(network, known, labels[:1400], epochs)
    network.eval()

    answers = network(unseen).argmax(1)
    result = {"dense accuracy": (answers == labels[1400:]).float().mean().item()}
    for method in methods:
        # A quarter of the multiply-adds; the pictures alone, in batches of 64, calibrate it.
        thin = thinlens.prune(network, budget="1/4", method=method, data=list(known.split(64)))
        print(thin)
        run = thinlens.compile(thin)  # convolutions in the engine, which skips zeros
        same = (run(unseen).argmax(1) == answers).float().mean().item()
        result[f"{method} agreement"] = same
    return result


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name}: {value:.1%}")
