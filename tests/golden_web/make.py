"""Writes camera.json, codec.json, schedule.json and depth.json: numbers of the Python side that the browser must give.

    python tests/golden_web/make.py

tests/pure/test_web_golden.py holds the files to Python, tests/web/golden.test.mjs holds web/maths to the files.
"""

import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def camera() -> dict:
    """Unprojection, projection and orbits of an off-centre camera."""
    import torch
    from modality_forcing.model.geometry.camera import intrinsics_from_focal_px, project, unproject
    from modality_forcing.model.geometry.pose import camera_pose

    k = intrinsics_from_focal_px(525.0, 640, 480, focal_y_px=520.0, centre_x_px=300.0, centre_y_px=250.0)
    pixels = [(0, 0, 1.5), (639, 479, 2.0), (320, 240, 10.0), (17, 400, 0.25)]
    depth = torch.ones(1, 480, 640)
    for column, row, z in pixels:
        depth[0, row, column] = z
    points = torch.stack([unproject(depth, k)[0, row, column] for column, row, _ in pixels])  # (N,3)
    orbits = [
        {"pivot": [0.0, 0.0, 3.0], "distance": 3.0, "yaw": yaw, "pitch": pitch}
        for yaw, pitch in [(0.0, 0.0), (30.0, 0.0), (0.0, -20.0), (-75.0, 40.0)]
    ]
    # The same orbit about a pivot that was moved aside: Python moves the camera after it has turned.
    orbits.append({"pivot": [0.5, -0.25, 4.0], "distance": 3.0, "yaw": 30.0, "pitch": 10.0})
    moves = [{}] * 4 + [{"right": 0.5, "up": 0.25, "forward": 1.0}]
    poses = [
        camera_pose(**move, yaw_deg=o["yaw"], pitch_deg=o["pitch"], pivot=o["distance"]).flatten().tolist()
        for o, move in zip(orbits, moves, strict=True)
    ]
    return {
        "size": [640, 480],
        "intrinsics": k.flatten().tolist(),
        "pixels": pixels,
        "points": points.tolist(),
        "positions": project(points[None], k, 640, 480)[0][0].tolist(),
        "orbits": orbits,
        "poses": poses,
    }


def codec() -> dict:
    """Depth over its mean and its code."""
    import torch
    from modality_forcing.model.depth.codec import contract

    depth = [0.0, 0.25, 1.0, 1.5, 4.0, 1000.0]
    return {"depth": depth, "code": contract(torch.tensor(depth, dtype=torch.float64)).tolist()}


def schedule() -> dict:
    """Trajectories, given levels and the log2_alpha through points."""
    import torch
    from modality_forcing.model.diffusion.levels import given_level
    from modality_forcing.model.diffusion.schedule import log2_alpha_through, trajectory

    runs = [(4, 1.1, 5.0), (10, 1.1, 0.0), (7, 0.0, -5.0), (3, 2.5, 14.0)]
    clock = [0.0, 0.1, 0.5, 0.9, 1.0]
    points = [(0.5, 0.5), (0.5, 32 / 33), (0.25, 0.1)]
    return {
        "trajectories": [
            {
                "steps": steps,
                "mu": mu,
                "log2_alpha": alpha,
                "levels": torch.stack(trajectory(steps, "joint", alpha, mu), 1).tolist(),
            }
            for steps, mu, alpha in runs
        ],
        "clock": clock,
        "given": {str(s): given_level(torch.tensor(clock, dtype=torch.float64), s).tolist() for s in (0.25, 0.9, 1.0)},
        "points": points,
        "log2_alpha": [log2_alpha_through(*point) for point in points],
    }


def depth() -> dict:
    """Pictures of a small depth map with a hole, its edges, and how many points the filters leave."""
    import torch
    from modality_forcing.model.depth.pictures import depth_picture
    from modality_forcing.model.geometry.camera import intrinsics_from_fov_x
    from modality_forcing.model.geometry.packets import make_geometry
    from modality_forcing.model.geometry.pointcloud import point_clouds

    rows, columns = torch.meshgrid(torch.arange(9.0), torch.arange(12.0), indexing="ij")
    z = 1.0 + 0.03 * columns + 0.11 * rows + 3.0 * (columns > 7)  # (9,12), a step at column 8
    z[4, 3] = torch.nan
    pictures = [
        {
            "mapping": mapping,
            "polarity": polarity,
            "clip_percent": clip,
            "colour_map": colour_map,
            "pixels": depth_picture(
                z[None], mapping=mapping, polarity=polarity, clip_percent=clip, colour_map=colour_map
            )[0].tolist(),
        }
        for mapping, polarity, clip, colour_map in [
            ("disparity", "near-white", 0.1, "grey"),
            ("linear", "far-white", 5.0, "magma"),
            ("log", "near-white", 0.0, "spectral"),
        ]
    ]
    packet = make_geometry(z[None], None, intrinsics_from_fov_x(60.0, 12, 9))
    filters = [{"edge": edge, "far": far} for edge, far in [(0.0, 0.0), (0.2, 0.0), (0.04, 0.0), (0.2, 2.0)]]
    kept = [len(point_clouds(packet, edge_threshold=f["edge"], far=f["far"])[0]) for f in filters]
    values = [None if v != v else v for v in z.flatten().tolist()]
    return {"size": [12, 9], "depth": values, "pictures": pictures, "filters": filters, "kept": kept}


FILES = {"camera": camera, "codec": codec, "schedule": schedule, "depth": depth}


def rounded(value: object) -> object:
    """Eight digits: below every tolerance in use, and the same file on every machine."""
    if isinstance(value, float):
        return float(f"{value:.8g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list | tuple) else value


def main() -> None:
    """Write the files beside this one."""
    sys.path.insert(0, str(HERE.parent))
    import conftest  # noqa: F401  (makes the package importable)

    for name, function in FILES.items():
        path = HERE / f"{name}.json"
        path.write_text(json.dumps(rounded(function()), separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
