"""Depth maps: how they are encoded for the network, stored in files, shown as pictures and brought to scale."""
