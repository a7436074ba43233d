"""The demo's two models, in plain numpy: handwritten digits, and a writer that streams words.

Every process that serves a model reads the same weights from one file, so that an answer is the
same wherever it was computed. Must never know who serves it or over which protocol.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gateway.clock import Clock

DIGITS = "digits"
"""The digits model: `pixels` FP32 [N,64] in, `probabilities` FP32 [N,10] and `digit` INT64 [N,1] out."""

WRITER = "tiny-writer"
"""The text model: `text_input` BYTES [1] in, `text_output` BYTES [1] out, decoupled."""

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


class Answer(NamedTuple):
    """What the digits model says about N images."""

    probabilities: Floats  # [N, 10]
    digit: Integers  # [N, 1]


class Digits(NamedTuple):
    """A network with one hidden layer: 64 pixels, a few rectified units, ten classes."""

    hidden: Floats
    hidden_bias: Floats
    output: Floats
    output_bias: Floats

    def answer(self, pixels: Floats) -> Answer:
        """Classify images of 64 pixels from 0 to 16, shape [N, 64]. Raises ValueError for another shape."""
        if pixels.ndim != 2 or pixels.shape[1] != self.hidden.shape[0]:
            raise ValueError(f"pixels must have shape [N,{self.hidden.shape[0]}], not {list(pixels.shape)}")
        units = np.maximum(pixels.astype(np.float32) / 16 @ self.hidden + self.hidden_bias, 0)
        scores = units @ self.output + self.output_bias
        # Subtracting the largest keeps exp() in range and changes no ratio.
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        shares = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
        return Answer(shares, shares.argmax(axis=1, keepdims=True).astype(np.int64))

    def save(self, path: Path) -> None:
        """Write the weights to one `.npz` file."""
        np.savez(path, **self._asdict())

    @classmethod
    def load(cls, path: Path) -> "Digits":
        """Read what `save` wrote."""
        with np.load(path) as arrays:
            return cls(**{name: arrays[name] for name in cls._fields})


class Trained(NamedTuple):
    """A fresh model, how good it is, and images that it has not seen."""

    model: Digits
    accuracy: float  # share of the unseen images it gets right
    images: Floats  # [M, 64]


def train(seed: int = 7) -> Trained:
    """Train on the 1,797 digits that come with scikit-learn; about a second, the same every time."""
    from sklearn.datasets import load_digits  # noqa: PLC0415 - heavy, and only the demo needs it
    from sklearn.model_selection import train_test_split  # noqa: PLC0415
    from sklearn.neural_network import MLPClassifier  # noqa: PLC0415

    images, labels = load_digits(return_X_y=True)
    seen, unseen, seen_labels, unseen_labels = train_test_split(
        images.astype(np.float32), labels, test_size=0.25, random_state=seed, stratify=labels
    )
    # Early stopping ends the training by a rule instead of by a warning about too few rounds.
    network = MLPClassifier((32,), learning_rate_init=0.01, early_stopping=True, random_state=seed)
    network.fit(seen / 16, seen_labels)
    weights = (network.coefs_[0], network.intercepts_[0], network.coefs_[1], network.intercepts_[1])
    model = Digits(*(np.asarray(array, dtype=np.float32) for array in weights))
    right = model.answer(unseen).digit[:, 0] == unseen_labels
    return Trained(model, float(right.mean()), unseen)


def write(text: str, max_tokens: int = 16) -> list[str]:
    """The writer's whole answer, token by token: a fixed function of the text, at most `max_tokens` long.

    Token k is the prompt's word k, backwards, so that a test can tell every prompt's answer apart.
    """
    words = text.split() or ["nothing"]
    return [f"{words[place % len(words)][::-1]} " for place in range(max(0, min(max_tokens, 4096)))]


async def stream(text: str, max_tokens: int, pace: float) -> AsyncIterator[str]:
    """The writer's tokens, one every `pace` seconds."""
    for token in write(text, max_tokens):
        await asyncio.sleep(pace)
        yield token


async def hold_until(clock: Clock, began: float, floor: float) -> None:
    """Wait until `floor` seconds have passed since `began`: the stand-in for a GPU step."""
    left = began + floor - clock.now()
    if left > 0:
        await asyncio.sleep(left)
