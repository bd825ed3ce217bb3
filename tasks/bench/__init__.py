"""What measures: ``run.py bench NAME``."""
