"""Names for the few types that everything shares."""

from typing import NewType, TypeAlias

import numpy as np
import numpy.typing as npt

NodeId = NewType("NodeId", int)
"""A node's index, 0..num_nodes-1."""

Vector: TypeAlias = npt.NDArray[np.float32]
"""Model parameters or a part of them, shape (k,), float32."""

Float64Vector: TypeAlias = npt.NDArray[np.float64]
"""Shape (k,), float64."""

IndexVector: TypeAlias = npt.NDArray[np.int64]
"""Positions in a flat vector, shape (k,), int64."""
