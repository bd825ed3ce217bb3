"""The bundled small model's story in one place: `python -m tasks.small_model family | report | bundle`."""
