"""A text encoder for a closed list of words, for the small models: no weights, only a list.

Each known word becomes a one-hot row; the transformer's own text input layer is the learned embedding. Words that carry
nothing in these captions (articles, prepositions, punctuation) are left out, which halves the sequence. Letters: B
prompts, L tokens, C width.
"""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

DEFAULT_LENGTH = 40
FILLERS = frozenset({"a", "an", "and", "at", "in", "of", "on", "the", "with"})
PAD, END = 0, 1  # token numbers; the words follow
FIRST_WORD = 2
_WIDTH_STEP = 16  # widths are whole multiples of this, which 8-bit matrix units want


@dataclass(frozen=True)
class TextEncoder:
    """Encodes prompts of the words in `words`, right-padded to `length` tokens.

    Unknown words are ignored; `unknown_words` names them. The empty prompt is the end token followed by padding. A
    prompt of more than length - 1 words is cut after those.
    """

    words: tuple[str, ...]
    length: int = DEFAULT_LENGTH

    def __post_init__(self) -> None:
        if len(set(self.words)) != len(self.words) or not self.words or self.length < 2:
            raise ValueError(
                f"got {len(self.words)} words ({len(set(self.words))} different) and length {self.length}; expected at "
                "least one word, each once, and a length of at least 2"
            )

    @classmethod
    def of_vocabulary(cls, vocabulary: Sequence[str], length: int = DEFAULT_LENGTH) -> "TextEncoder":
        """Encoder of a vocabulary, without its fillers and punctuation."""
        return cls(tuple(word for word in vocabulary if word.isalpha() and word not in FILLERS), length)

    @classmethod
    def load(cls, path: str | Path) -> "TextEncoder":
        """Read what `save` wrote. Raises ValueError for another file."""
        path = Path(path)
        try:
            held = json.loads(path.read_text(encoding="utf-8"))
            return cls(tuple(held["words"]), int(held["length"]))
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path} is not a word list of this encoder ({error!r}); expected words and length"
            ) from error

    def save(self, path: str | Path) -> None:
        """Write the word list as JSON; token numbers follow its order."""
        text = json.dumps({"words": list(self.words), "length": self.length}, indent=1) + "\n"
        Path(path).write_text(text, encoding="utf-8")

    @property
    def width(self) -> int:
        """C: the words and special tokens, rounded up."""
        return math.ceil((len(self.words) + FIRST_WORD) / _WIDTH_STEP) * _WIDTH_STEP

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.words, FIRST_WORD)}

    def tokens(self, prompts: Sequence[str]) -> Tensor:
        """(B,L) int64 token numbers."""
        rows = torch.full((len(prompts), self.length), PAD)
        for row, prompt in zip(rows, prompts, strict=True):
            numbers = [self._numbers[word] for word in _split(prompt) if word in self._numbers][: self.length - 1]
            row[: len(numbers) + 1] = torch.tensor([*numbers, END])
        return rows

    def embed(self, tokens: Tensor) -> Tensor:
        """(B,L) token numbers -> (B,L,C) float32, each row one-hot times sqrt(C): elements of mean square 1."""
        return torch.nn.functional.one_hot(tokens.long(), self.width).float() * math.sqrt(self.width)

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """(B,L,C) float32 embeddings of prompts."""
        return self.embed(self.tokens(prompts))

    def unknown_words(self, prompt: str) -> list[str]:
        """The words of a prompt that the encoder does not know and ignores, in order, each once."""
        return list(dict.fromkeys(w for w in _split(prompt) if w not in self._numbers and w not in FILLERS))


def _split(prompt: str) -> list[str]:
    return re.findall(r"[a-z]+", prompt.lower())
