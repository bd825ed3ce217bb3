"""Closed sets of the words scenes are made of: colours, textures, shapes, lights; with the numbers behind them."""

# sRGB in 0..1. Order matters: an index into it is what the layout stores.
COLOURS = {
    "red": (0.82, 0.10, 0.10),
    "orange": (0.97, 0.50, 0.06),
    "yellow": (0.97, 0.86, 0.12),
    "green": (0.16, 0.60, 0.18),
    "blue": (0.12, 0.28, 0.86),
    "purple": (0.50, 0.16, 0.68),
    "pink": (0.98, 0.55, 0.74),
    "brown": (0.43, 0.26, 0.13),
    "white": (0.94, 0.94, 0.93),
    "gray": (0.50, 0.50, 0.52),
    "black": (0.07, 0.07, 0.08),
    "teal": (0.06, 0.64, 0.66),
}
COLOUR_NAMES = tuple(COLOURS)


def colour(name: str) -> int:
    """Index of a colour word."""
    return COLOUR_NAMES.index(name)


# Textures. WINDOWS, ROAD and MOTTLED belong to scenery and are not named on objects.
PLAIN, CHECKERED, STRIPED, DOTTED, WINDOWS, ROAD, MOTTLED = range(7)
TEXTURE_WORDS = {PLAIN: "", CHECKERED: "checkered", STRIPED: "striped", DOTTED: "dotted", MOTTLED: ""}

KINDS = ("room", "tabletop", "street", "ground")

# Times of day: words, key light colour, ambient colour, sky at the zenith, sky at the horizon (linear RGB).
DAY, CLOUDY, SUNSET, NIGHT, DAYLIGHT, WARM, DIM = range(7)
OUTDOOR_TIMES = [DAY, DAY, CLOUDY, SUNSET, NIGHT]
INDOOR_TIMES = [DAYLIGHT, DAYLIGHT, WARM, DIM]
TIME_WORDS = ("at noon", "on a cloudy day", "at sunset", "at night", "in daylight", "in warm light", "in dim light")
KEY_LIGHT = (
    (0.78, 0.74, 0.66),
    (0.16, 0.16, 0.16),
    (0.95, 0.62, 0.36),
    (0.20, 0.23, 0.34),
    (0.54, 0.54, 0.54),
    (0.80, 0.67, 0.48),
    (0.36, 0.35, 0.33),
)
AMBIENT = (
    (0.34, 0.38, 0.44),
    (0.58, 0.59, 0.61),
    (0.34, 0.31, 0.35),
    (0.12, 0.13, 0.21),
    (0.42, 0.43, 0.45),
    (0.38, 0.32, 0.25),
    (0.19, 0.19, 0.20),
)
ZENITH = ((0.09, 0.27, 0.72), (0.50, 0.52, 0.55), (0.13, 0.16, 0.38), (0.004, 0.006, 0.03)) + ((0.0, 0.0, 0.0),) * 3
HORIZON = ((0.52, 0.70, 0.90), (0.66, 0.67, 0.68), (0.98, 0.44, 0.13), (0.03, 0.04, 0.10)) + ((0.0, 0.0, 0.0),) * 3
