"""What the bundled small model is used with, in the one place where that is said: workflows, demo and pictures."""

SIDE, STEPS, GUIDANCE = 256, 25, 2.0  # pixels that the model was trained at; what its depth comes out best with
IMAGE_GUIDANCE, DEPTH_GUIDANCE = 3.0, 1.0  # of both made together: guided depth agrees less
SAMPLING = "fast"  # as consistent as "as released", in a fifth of the calls (run.py bench samplers)
LEAD = "together"  # log2_alpha 0: as consistent as "image first", and its depth is less blocky
DEPTH_STEPS = 8  # image to depth: more change nothing (run.py bench samplers)
FAR = 2.8  # mean depths: the model puts the sky at 4, and its edge on the way there
EDGE = 51.2 / SIDE  # of neighbouring pixels: the ground itself falls away by more than the default
PAINTED_FINEST = 8  # pixels: what a moved view knows bends its painted depth down to (run.py bench controls scene)
CRACKS = 4  # pixels: what the steps of the ground leave open in a moved view
SIDE_VIEW = {"yaw_deg": 12.0, "pitch_deg": -6.0, "pivot": 1.0}  # a camera that shows the cloud's depth
VIEWER_FAR = 3.0  # median depths: as FAR, for the viewer; at 4 bits of sky hang about what stands before it
FIRST_VIEW = {
    "pivot": [0, 0, 1],
    "distance": 1,
    "yaw": 6,
    "pitch": -3,
    "edge": EDGE,
    "far": VIEWER_FAR,
}
PROMPT = (
    "a field of green grass with mountains at noon. a yellow box on the left. "
    "a green pine in the center nearby. an orange house on the right far away."
)  # true of the example pictures, in the model's words
