"""Train the vitals network on recorded.csv, measure it on the part held out, write its agent files.

    python docs/examples/vitals/build.py --out build/vitals

Takes some seconds; numpy is all it needs beside edgeswarm.  --committed skips the training and takes the weights in
weights/, as `make demo` does; --save-weights puts the newly trained ones there.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import bursts
import evaluate
import network
import numpy as np
import training

from edgeswarm.model import Mlp, save_npz

sys.path.insert(0, str(network.HERE.parent))

import publish

RECORDING = network.HERE / "recorded.csv"
TEST_SEED = 99
TEST_STRETCHES, TEST_ROWS = 150, 300


def figures(models: dict[str, Mlp]) -> dict[str, evaluate.Figures]:
    """On the recording's held-out part, and on made-up machines that were not trained on; with either scorer."""
    held = list(evaluate.runs(training.held_out(training.load(RECORDING))))
    following = {**models, network.SCORER: models[network.NEXT_SCORER]}
    return {
        "recorded, held out": evaluate.evaluate(models, held),
        "the same with scorer 1.1.0": evaluate.evaluate(following, held),
        "made-up machines": evaluate.made_up(models, count=TEST_STRETCHES, rows=TEST_ROWS, seed=TEST_SEED),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("build/vitals"), help="folder for the .af files")
    parser.add_argument("--state", type=Path, help="state directory whose publisher key signs; default: this user's")
    parser.add_argument("--fit", action="store_true", help="fit the scale to what a burst can reach on this machine")
    parser.add_argument("--committed", action="store_true", help="do not train: take weights/*.npz")
    parser.add_argument("--save-weights", action="store_true", help="write what was trained to weights/*.npz")
    args = parser.parse_args()
    names = (*network.AGENTS, network.NEXT_SCORER)
    if args.committed:
        models = {name: network.weights(name) for name in names}
    else:
        models = training.train_all(training.load(RECORDING))
        same = all(np.array_equal(_flat(models[name]), _flat(network.weights(name))) for name in names)
        print(f"trained; the same weights as in weights/, bit by bit: {'yes' if same else 'no'}")
    if args.save_weights:
        for name, model in models.items():
            save_npz(model, network.HERE / "weights" / f"{name}.npz")
    for name, found in figures(models).items():
        print(name, *found.lines(), sep="\n")
    reach = bursts.reachable() if args.fit else None
    key = publish.publisher(args.state)
    files = {f"vitals-{name}.af": network.build_agent(name, key=key, reach=reach, model=models[name]) for name in names}
    publish.write(files, args.out)


def _flat(model: Mlp) -> training.F64:
    return np.concatenate([array.ravel() for layer in model.layers for array in (layer.weights, layer.bias)])


if __name__ == "__main__":
    main()
