"""Train on scikit-learn's digits, measure on the held-out part, write digits.af.

    python docs/examples/digits/build.py --out build/digits

Needs the extra `examples` (numpy, scikit-learn).  Takes seconds; the same versions give the same bytes on a machine.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from edgeswarm import Network
from edgeswarm.app import builder
from edgeswarm.errors import JailError
from edgeswarm.model import Dense, Mlp
from edgeswarm.model.reference import forward

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import publish  # noqa: E402
import train  # noqa: E402

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

HELD_OUT = 450  # of 1,797 images; which ones is fixed by SPLIT_SEED
SPLIT_SEED = 0
WHITE = 16.0  # pixels are 0 to 16
ACCURACY_MIN = 0.97


@dataclass(frozen=True, slots=True)
class Digits:
    """pixels: [n, 64], 0 to 16.  digits: [n]."""

    pixels: F64
    digits: I64


def split() -> tuple[Digits, Digits]:
    """(what is trained on, what is held out)."""
    data = load_digits()
    order = np.random.default_rng(SPLIT_SEED).permutation(len(data.target))
    held, rest = order[:HELD_OUT], order[HELD_OUT:]
    return Digits(data.data[rest], data.target[rest]), Digits(data.data[held], data.target[held])


def jitter(batch: F64, rng: np.random.Generator) -> F64:
    """The same digits as somebody else would have written them: a third one pixel to a side, all with some noise."""
    padded = np.pad(batch.reshape(-1, 8, 8), ((0, 0), (0, 0), (1, 1)))
    side = rng.choice(3, len(batch), p=[0.15, 0.7, 0.15])
    rows, columns = np.arange(8)[None, :, None], np.arange(8)[None, None, :]
    moved = padded[np.arange(len(batch))[:, None, None], rows, side[:, None, None] + columns]
    noisy: F64 = moved.reshape(len(batch), 64) + rng.normal(0, 0.1, batch.shape)
    return noisy


def train_digits(data: Digits) -> Mlp:
    """64-48-10, softmax.  Trained on pixels of 0 to 1; the scale is put into the first layer, so it takes 0 to 16."""
    plan = train.Plan((64, 48, 10), "relu", "softmax", steps=3_000, batch=128, rate=5e-3, decay=1e-2, seed=3)
    model = train.fit(plan, data.pixels / WHITE, np.eye(10)[data.digits], augment=jitter)
    first, *rest = model.layers
    return Mlp((Dense(first.weights / np.float32(WHITE), first.bias, first.activation), *rest))


def accuracy(answers: F64 | NDArray[np.float32], data: Digits) -> float:
    return float((answers.argmax(axis=1) == data.digits).mean())


def measure(model: Mlp, held: Digits) -> dict[str, float]:
    """Accuracy on the held-out part: of the numpy reference, and of the kernel in a jail where there are jails."""
    figures = {"numpy reference": accuracy(forward(model, held.pixels), held)}
    try:
        with Network(model) as network:
            figures["kernel in a jail"] = accuracy(network.forward(held.pixels), held)
    except JailError as error:
        print(f"no jail here, so the kernel was not run: {error}")
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("build/digits"), help="folder for digits.af")
    parser.add_argument("--state", type=Path, help="state directory whose publisher key signs; default: this user's")
    args = parser.parse_args()
    training, held = split()
    model = train_digits(training)
    figures = measure(model, held)
    print(f"{len(training.digits)} images trained on, {len(held.digits)} held out")
    for name, value in figures.items():
        print(f"accuracy, {name}: {100 * value:.2f} %")
    header = yaml.safe_load((HERE / "agent.yaml").read_text())
    data = builder.build(header, model, key=publish.publisher(args.state))
    publish.write({"digits.af": data}, args.out)
    np.save(args.out / "held-out.npy", held.pixels.astype(np.float32))
    np.savetxt(args.out / "held-out-digits.csv", held.digits, fmt="%d", header="digit", comments="")
    if min(figures.values()) < ACCURACY_MIN:
        sys.exit(f"expected an accuracy of at least {100 * ACCURACY_MIN:.0f} %")


if __name__ == "__main__":
    main()
