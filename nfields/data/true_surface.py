"""What is known of a surface that a field is fitted to: the contract of meshes and solids."""

from abc import ABC, abstractmethod

import numpy as np
from jaxtyping import Bool, Float


class TrueSurface(ABC):
    """The boundary of a solid, in our frame. A contract without behaviour; float64 in and out."""

    @abstractmethod
    def closest(
        self, points: Float[np.ndarray, "n 3"]
    ) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, " n"]]:
        """The nearest point of the surface, and the signed distance, negative inside."""

    @abstractmethod
    def nearest_normals(
        self, points: Float[np.ndarray, "n 3"]
    ) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, "n 3"]]:
        """How far the surface is, at least 0, and its outward unit normal at the nearest point."""

    @abstractmethod
    def is_inside(self, points: Float[np.ndarray, "n 3"]) -> Bool[np.ndarray, " n"]:
        """Whether each point is in the solid; cheaper than its distance."""

    @abstractmethod
    def sample(
        self, num: int, random: np.random.Generator
    ) -> tuple[Float[np.ndarray, "num 3"], Float[np.ndarray, "num 3"]]:
        """Points spread uniformly over the surface, and outward unit normals there."""
