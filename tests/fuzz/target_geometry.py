"""Geometry packets with something wrong, through everything that takes them."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hostile import OBJECTS, Silent, number, tensor
from modality_forcing.model.depth.pictures import MAPPINGS, depth_picture, far_mask
from modality_forcing.model.geometry.camera import intrinsics_from_fov_x
from modality_forcing.model.geometry.files import glb_bytes, ply_bytes, save_glb, save_ply
from modality_forcing.model.geometry.mesh import grid_meshes
from modality_forcing.model.geometry.normals import normal_picture
from modality_forcing.model.geometry.packets import (
    geometry_from_da3,
    geometry_to_da3,
    make_geometry,
    read_geometry,
    with_camera,
)
from modality_forcing.model.geometry.pointcloud import point_clouds, surface_normals
from modality_forcing.model.geometry.pose import camera_pose, pose_from_load3d
from modality_forcing.model.geometry.render import render_views


def good_packet(rng: random.Random) -> dict[str, Any]:
    generator = torch.manual_seed(rng.randrange(2**31))
    shape = rng.choice((1, 1, 2, 3)), rng.choice((1, 6, 16, 17, 32)), rng.choice((1, 8, 16, 32))
    shape = shape if rng.random() < 0.98 else (1, 16, 4096)
    depth = torch.rand(shape, generator=generator) * rng.choice((3.0, 3.0, 0.0)) + 0.5
    valid = torch.rand(shape, generator=generator) < rng.choice((0.5, 0.9, 1.0, 1.0, 0.0))
    if rng.random() < 0.1:  # one pixel
        valid.zero_().view(-1)[rng.randrange(valid.numel())] = True
    image = torch.rand(*shape, 3, generator=generator)
    camera = intrinsics_from_fov_x(60.0, shape[2], shape[1])
    return make_geometry(depth, valid, camera, image, normals=rng.random() < 0.5)


def harmed(rng: random.Random, packet: dict[str, Any]) -> object:
    """The packet with one or two entries missing or wrong; now and then something else altogether."""
    if rng.random() < 0.03:
        return rng.choice(OBJECTS)
    packet = dict(packet)
    for key in rng.sample(sorted(packet), rng.choice((1, 1, 2))):
        if rng.random() < 0.15:
            del packet[key]
        elif isinstance(packet[key], torch.Tensor):
            packet[key] = tensor(rng, packet[key])
    return packet


def clouds(rng: random.Random, packet: Any) -> list:
    return point_clouds(
        packet,
        edge_threshold=number(rng, 0.04),
        far=number(rng, 0.0),
        stride=rng.choice((1, 1, 2, 0)),
        normals=rng.random() < 0.5,
        voxel=number(rng, 0.0) if rng.random() < 0.3 else 0.0,
        outlier_neighbours=rng.choice((0, 0, 0, 2, 5, -1)),
    )


def _saved_cloud(rng: random.Random, packet: Any, folder: Path) -> None:
    for cloud in clouds(rng, packet):
        for values in (cloud.points, cloud.spacing, *([] if cloud.normals is None else [cloud.normals])):
            if not np.isfinite(values).all():
                raise Silent("a cloud with numbers that are not finite")
        save = rng.choice((save_ply, save_glb))
        save(folder / f"a{len(list(folder.iterdir()))}.{save.__name__[-3:]}", cloud)
        if len(ply_bytes(cloud)) < 15 * len(cloud):
            raise Silent("a PLY that is too short")


def _saved_mesh(rng: random.Random, packet: Any, folder: Path) -> None:
    meshes = grid_meshes(packet, edge_threshold=number(rng, 0.04), far=number(rng, 0.0), normals=rng.random() < 0.5)
    for mesh in meshes:
        if not np.isfinite(mesh.vertices).all() or (len(mesh.faces) and mesh.faces.max() >= len(mesh.vertices)):
            raise Silent("a mesh with broken vertices or faces")
        glb_bytes(mesh)


def _view(rng: random.Random, packet: Any, folder: Path) -> None:
    camera = intrinsics_from_fov_x(number(rng, 60.0), 8, 6)
    move = {name: number(rng, 0.1) for name in ("right", "up", "forward", "yaw_deg", "pitch_deg", "roll_deg", "pivot")}
    pose = camera_pose(**{**move, "pivot": abs(move["pivot"])})
    if rng.random() < 0.3:
        axes = {axis: number(rng, 0.5) for axis in "xyzw"}
        pose = pose_from_load3d(
            rng.choice(({"position": axes, "target": axes}, {"position": axes, "quaternion": axes}))
        )
    view = render_views(clouds(rng, packet), pose[None], camera, 8, 6, cracks=rng.choice((0, 2, 8)))
    if view.depth.isnan().any() or not torch.equal(view.hole, view.depth.isinf()) or not view.image.isfinite().all():
        raise Silent("a view with NaN")


def _pictures(rng: random.Random, packet: Any, folder: Path) -> None:
    geometry = read_geometry(packet)
    ranges = {
        "range_from": rng.choice(("per image", "per batch", "fixed")),
        "near": number(rng, 1.0),
        "far": number(rng, 9.0),
    }
    mapping = rng.choice(MAPPINGS)
    picture = depth_picture(geometry.depth, geometry.valid, mapping=mapping, clip_percent=number(rng, 0.1), **ranges)
    far_mask(geometry.depth, geometry.valid, ratio=number(rng, 5.0))
    normal = normal_picture(surface_normals(geometry, number(rng, 0.04)).float())
    for values in (picture, normal) if mapping != "raw" else (normal,):
        if not bool(((values >= 0) & (values <= 1)).all()):
            raise Silent("a picture with values outside 0..1")


def _da3(rng: random.Random, packet: Any, folder: Path) -> None:
    other = geometry_to_da3(packet)
    if rng.random() < 0.5:
        del other["normalised_intrinsics"]
    other |= {"sky": torch.rand_like(other["depth"]), "confidence": torch.rand_like(other["depth"])}
    back = geometry_from_da3(harmed(rng, other), sky_threshold=number(rng, 0.5), confidence_threshold=number(rng, 0.1))
    _check(read_geometry(back))


def _camera(rng: random.Random, packet: Any, folder: Path) -> None:
    camera = intrinsics_from_fov_x(60.0, 8, 6)
    _check(read_geometry(with_camera(packet, camera if rng.random() < 0.5 else tensor(rng, camera))))


def _check(geometry: Any) -> None:
    if not bool((geometry.depth[geometry.valid] > 0).all()) or not geometry.points[geometry.valid].isfinite().all():
        raise Silent("valid pixels without depth or without a point")


def case(rng: random.Random, folder: Path) -> None:
    packet: Any = good_packet(rng)
    if rng.random() < 0.7:
        packet = harmed(rng, packet)
    use = rng.choice((_saved_cloud, _saved_mesh, _view, _pictures, _da3, _camera))
    use(rng, packet, folder)
