"""Tests with tiny models; some of them import diffusers and transformers."""

from modality_forcing.tasks.host.launch import keep_torchvision_importable

keep_torchvision_importable()
