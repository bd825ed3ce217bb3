"""What the bundled small checkpoint needs: a text encoder of a few dozen words and a small image codec."""
