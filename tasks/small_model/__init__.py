"""The bundled small model's story in one place: its family of training runs, its figures, and its files."""
