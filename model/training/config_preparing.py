"""The configurations of what comes before training: the small image codec, and encoding to latents."""

from typing import Annotated

from pydantic import Field, Strict

from ..network.config import DEPTH_PATCH, RGB_CHANNELS
from .config import (
    NO_LIMIT,
    CodecSection,
    Count,
    DataSection,
    Difficulty,
    Integer,
    SceneKind,
    codec_paths,
    section,
)


@section
class CodecConfig:
    """A run of `codec`: the small image autoencoder on procedural scenes."""

    output: str
    """folder for the codec, its word list and its picture"""
    seed: Integer = 0
    scenes: Annotated[int, Strict(), Field(ge=2, le=NO_LIMIT)] = 4000
    size: Annotated[int, Strict(), Field(ge=DEPTH_PATCH, le=2**14)] = 64
    difficulty: Difficulty = "full"
    kinds: tuple[SceneKind, ...] = ()
    """of the scenes; empty: all"""
    width: Annotated[int, Strict(), Field(ge=8, le=2**14)] = 64
    channels: Annotated[int, Strict(), Field(ge=1, le=RGB_CHANNELS)] = RGB_CHANNELS
    """that carry the picture; the rest of the latent's 128 stay zero"""
    steps: Count = 2000
    batch: Count = 16
    learning_rate: Annotated[float, Strict(), Field(ge=1e-9, le=1)] = 2e-3
    latent_noise: Annotated[float, Strict(), Field(ge=0, le=10)] = 0.1
    """share of the latents' deviation: the decoder learns to bear a transformer's errors"""
    text_length: Annotated[int, Strict(), Field(ge=2, le=2**14)] = 40

    def problems(self) -> list[str]:
        return [f"size is {self.size}; expected a multiple of {DEPTH_PATCH}"] if self.size % DEPTH_PATCH else []

    def paths(self) -> list[str]:
        return []


@section
class EncodeConfig:
    """A run of `encode`: pictures and captions to latents, once, to train from (data.kind = "latents")."""

    output: str
    """folder of the store"""
    count: Count = NO_LIMIT
    """samples of each size at most; scenes without a count need one here"""
    part_size: Count = 512
    """samples in one file"""
    batch: Count = 32
    """samples encoded at once"""
    codec: CodecSection = CodecSection()
    data: DataSection = DataSection()

    def problems(self) -> list[str]:
        lines = self.data.problems()
        if self.data.kind == "latents":
            lines.append("data.kind is 'latents', which are encoded already; expected scenes, folder or shards")
        if self.data.kind == "scenes" and not self.data.count and self.count >= NO_LIMIT:
            lines.append("count is not set; scenes never end, so say how many to encode")
        return lines

    def paths(self) -> list[str]:
        return codec_paths(self.codec, self.data)
