"""Guidance of one modality: towards the prompt, and towards what the other modality says."""

from torch import Tensor


def guide(
    conditional: Tensor,
    unconditional: Tensor | None,
    cfg: float,
    *,
    base: Tensor | None = None,
    separate: Tensor | None = None,
    follow: float = 1.0,
) -> Tensor:
    """U + cfg (C - U) + (follow - 1) (B - A), for predictions of any kind that are linear in the clean sample.

    Classifier-free guidance (arXiv 2207.12598) with a second scale as in InstructPix2Pix (arXiv 2211.09800).

    Args:
        conditional, unconditional: predictions for the prompt (C) and the empty one (U); None leaves guidance out.
        base, separate: predictions of one text with the other modality (B) and without it, at its level t = 1 (A);
            None leaves the term out.
    """
    guided = conditional if unconditional is None or cfg == 1 else unconditional + (conditional - unconditional) * cfg
    return guided if separate is None else guided + (follow - 1) * (base - separate)
