"""What makes the pictures of docs and workflows: ``run.py pictures NAME``."""
