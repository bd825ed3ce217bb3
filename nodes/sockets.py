"""What several node files share: categories, socket types, and inputs with their tooltips."""

from comfy_api.latest import io

from ..model.depth.pictures import MEANINGS
from ..model.geometry.edges import DEFAULT_EDGE

CATEGORY = "Modality Forcing"
GEOMETRY_CATEGORY = f"{CATEGORY}/Geometry"

GEOMETRY = io.Custom("MOGE_GEOMETRY")  # core's packet; see model/geometry/packets.py
# The payload is a list[PointCloud], one for each image of the batch; see model/geometry/pointcloud.py.
POINT_CLOUD = io.Custom("MODALITY_FORCING_POINT_CLOUD")
FOV_TOOLTIP = "Horizontal field of view of the camera, in degrees. 55 where nothing is known; 'Set Camera' changes it."


def near_far_inputs(near_tooltip: str, far_tooltip: str) -> list[io.Input]:
    """The depths of the two ends of a picture's range."""
    return [
        io.Float.Input("near", default=1.0, min=0.0001, max=1e6, step=0.01, tooltip=near_tooltip),
        io.Float.Input("far", default=10.0, min=0.0002, max=1e9, step=0.01, tooltip=far_tooltip),
    ]


def depth_picture_inputs() -> list[io.Input]:
    """A picture of depth, and what its values mean; the names are those of `depth_of_picture`."""
    return [
        io.Image.Input("picture"),
        io.Combo.Input(
            "meaning",
            options=list(MEANINGS),
            default="disparity near-white",
            tooltip="disparity near-white: MiDaS, Depth Anything, ControlNet pictures. depth far-white: "
            "renderers' z passes, normalised. metric: value times scale is the depth.",
        ),
        *near_far_inputs(
            "Depth of the near end of the picture's range. Only far / near matters where the scale is lost. "
            "Not for metric.",
            "Depth of the far end. A larger far / near gives more relief. Not for metric.",
        ),
        io.Float.Input(
            "scale",
            default=1.0,
            min=1e-6,
            max=1e9,
            step=0.001,
            tooltip="Depth of the value 1, for metric only.",
        ),
        io.Boolean.Input("black_is_hole", default=False, tooltip="Pure black pixels are missing depth."),
    ]


def surface_inputs() -> list[io.Input]:
    """What decides which pixels of a geometry become points or triangles."""
    return [
        io.Float.Input(
            "edge_threshold",
            default=DEFAULT_EDGE,
            min=0.0,
            max=10.0,
            step=0.01,
            tooltip="Cuts where neighbouring depths differ by more than this share: the points that fly between "
            "surfaces. 0 keeps all.",
        ),
        io.Float.Input(
            "far",
            default=0.0,
            min=0.0,
            max=1e9,
            step=0.1,
            tooltip="Leaves out what is deeper than this, in the unit of the depth. 0 keeps all.",
        ),
        io.Int.Input("stride", default=1, min=1, max=64, tooltip="Uses every n-th row and column of pixels."),
    ]
