"""A small model's word list as core's CLIP."""

import logging
from typing import Any

import comfy.model_management as memory
import comfy.sd
import torch
from comfy.supported_models_base import ClipTarget
from torch import Tensor

from ...model.demo.text import TextEncoder

log = logging.getLogger("modality_forcing")


class SmallTokenizer:
    """A prompt as core's token lists; the numbers are the word list's. Weights, as in (red:1.2), have no effect."""

    def __init__(self, words: TextEncoder) -> None:
        self.words = words
        self.reported: set[str] = set()

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **_kwargs: Any) -> dict[str, list]:
        unknown = [word for word in self.words.unknown_words(text) if word not in self.reported]
        if unknown:
            self.reported.update(unknown)
            log.warning(
                "The small model does not know the words %s and leaves them out. It knows: %s",
                ", ".join(unknown),
                ", ".join(self.words.words),
            )
        numbers = self.words.tokens([text])[0].tolist()
        return {"words": [[(number, 1.0, 0) if return_word_ids else (number, 1.0) for number in numbers]]}

    def state_dict(self) -> dict[str, Tensor]:
        return {}


class SmallTextModel(torch.nn.Module):
    """What core's CLIP expects of a text encoder's network; this one has no weights."""

    disable_offload = True

    def __init__(self, words: TextEncoder) -> None:
        super().__init__()
        self.words = words
        self.dtypes: set[torch.dtype] = set()

    def set_clip_options(self, _options: dict[str, Any]) -> None:
        """There is none that applies: no layers to skip, no projection."""

    def reset_clip_options(self) -> None:
        """See `set_clip_options`."""

    def encode_token_weights(self, tokens: dict[str, list]) -> tuple[Tensor, None]:
        """Tokens of B prompts -> (B,L,C) embedding, and no pooled one."""
        numbers = torch.tensor([[token[0] for token in row] for row in tokens["words"]])
        return self.words.embed(numbers).to(memory.intermediate_device()), None


def small_clip(words: TextEncoder) -> comfy.sd.CLIP:
    """Core's own CLIP object around the word list."""
    target = ClipTarget(tokenizer=lambda **_kwargs: SmallTokenizer(words), clip=lambda **_kwargs: SmallTextModel(words))
    return comfy.sd.CLIP(target)
