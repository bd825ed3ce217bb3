"""What writes the shipped workflows (``run.py workflows make``) and turns saved ones into prompts."""
