"""The method itself: network, diffusion, depth, geometry and training. Importable without ComfyUI."""
