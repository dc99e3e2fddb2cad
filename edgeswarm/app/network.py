"""`Network`: a model that computes in a jail, for programs that want arrays in and arrays out and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeswarm.errors import InputError, LocalError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from edgeswarm.app.lone import LoneKernel
    from edgeswarm.drivers.jail_sync import SyncJail
    from edgeswarm.model import Mlp


class Network:
    """A multi-layer perceptron.  The first `forward` compiles it and starts its jail; use `with`, or close() it.

    Raises LocalError after close().
    """

    def __init__(self, model: Mlp, *, mode: str = "fast", batch_max: int = 256) -> None:
        self.model = model
        self._mode = mode
        self._batch_max = batch_max
        self._lone: LoneKernel | None = None
        self._closed = False

    @classmethod
    def random(
        cls,
        sizes: Sequence[int],
        *,
        activation: str = "relu",
        output_activation: str = "linear",
        seed: int = 0,
        **options: Any,
    ) -> Network:
        """Random weights from `seed`; sizes: inputs, hidden layers, outputs."""
        from edgeswarm.model import random_mlp

        return cls(random_mlp(sizes, activation, output_activation, seed), **options)

    @classmethod
    def load(cls, path: Path | str, **options: Any) -> Network:
        """From .npz or .json, as `save` writes them.  Raises RemoteError for a malformed file."""
        from edgeswarm.model import load_json, load_npz

        path = Path(path)
        return cls(load_json(path) if path.suffix == ".json" else load_npz(path), **options)

    def save(self, path: Path | str) -> None:
        """To .npz (arrays w0, b0, ... and the activations) or .json."""
        from edgeswarm.model import save_json, save_npz

        path = Path(path)
        if path.suffix not in (".json", ".npz"):
            raise LocalError(f"{path}: expected .npz or .json")
        (save_json if path.suffix == ".json" else save_npz)(self.model, path)

    def forward(self, rows: Any) -> NDArray[np.float32]:
        """float32[n, inputs] or float32[inputs] -> float32[n, outputs] or float32[outputs], computed in a jail.

        Raises InputError for the wrong width or values that are not finite.
        """
        import numpy as np

        try:
            with np.errstate(over="ignore"):  # infinity is refused below
                values = np.ascontiguousarray(rows, dtype=np.float32)
        except (TypeError, ValueError, OverflowError) as error:
            raise InputError(f"input: expected numbers, found {type(rows).__name__}: {error}") from None
        width = self.model.sizes[0]
        if values.ndim not in (1, 2) or values.shape[-1] != width:
            raise InputError(f"input: expected [n, {width}] or [{width}], found {list(values.shape)}")
        if not np.isfinite(values).all():
            raise InputError("input: expected finite numbers, found NaN or infinity")
        batch = values.reshape(-1, width)
        if not len(batch):
            return np.empty((0, self.model.sizes[-1]), np.float32)
        answer = self._open().call(0, batch.data.cast("B"), rows=len(batch))
        return np.frombuffer(answer, np.float32).reshape(*values.shape[:-1], self.model.sizes[-1])

    def _open(self) -> SyncJail:
        if self._closed:
            raise LocalError("network: it is closed")
        if self._lone is None:
            from edgeswarm.app.lone import LoneKernel
            from edgeswarm.compile import compile_mlp

            self._lone = LoneKernel(compile_mlp(self.model, batch_max=self._batch_max, mode=self._mode))
        return self._lone.jail

    def close(self) -> None:
        """End the jail."""
        self._closed = True
        if self._lone is not None:
            self._lone.close()
            self._lone = None

    def __enter__(self) -> Network:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
