"""Find, set up, start and talk to a ComfyUI; find a browser."""
