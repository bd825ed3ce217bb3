"""Flow matching with one noise level per modality: schedule, levels and the headless sampler."""
