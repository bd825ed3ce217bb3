"""Iterative closest points (Besl and McKay 1992; to planes, Chen and Medioni 1992), by Open3D where it is there."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

ROUNDS, EACH = 10, 5  # progress and interruption between rounds; iterations in one
_NEIGHBOURS = 12  # points that a normal is estimated from
FEW = 100  # points: fewer say nothing about a rotation


def registered(
    moving: np.ndarray,
    fixed: np.ndarray,
    reach: float,
    before_round: Callable[[int, int], None] = lambda index, count: None,
) -> Tensor:
    """(4,4) float32 rigid motion that brings points (N,3) onto the surface through others (M,3).

    reach: pairs farther apart, in the points' unit, are not taken for the same surface. The identity for fewer than
    FEW points. before_round: called with (index, count), may raise to stop. ImportError where Open3D is missing.
    """
    try:
        import open3d
    except ImportError as error:
        raise ImportError(
            f"Refining by ICP needs Open3D: pip install open3d. Adding a view works without. ({error})"
        ) from error
    motion = np.eye(4)
    if min(len(moving), len(fixed)) < FEW:
        return torch.from_numpy(motion).float()
    source, target = (
        open3d.geometry.PointCloud(open3d.utility.Vector3dVector(points.astype(np.float64)))
        for points in (moving, fixed)
    )
    target.estimate_normals(open3d.geometry.KDTreeSearchParamKNN(_NEIGHBOURS))
    registration = open3d.pipelines.registration
    to_planes = registration.TransformationEstimationPointToPlane()
    for index in range(ROUNDS):
        before_round(index, ROUNDS)
        found = registration.registration_icp(
            source, target, reach, motion, to_planes, registration.ICPConvergenceCriteria(max_iteration=EACH)
        )
        still = np.allclose(found.transformation, motion, atol=1e-7)
        motion = np.asarray(found.transformation)
        if still:
            break
    return torch.from_numpy(motion.copy()).float()
