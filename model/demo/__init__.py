"""What the bundled small checkpoint needs: a text encoder of a few dozen words and a small image codec."""

# What lies beside a small model's transformer.
CODEC_FILE, WORDS_FILE = "image_codec.safetensors", "words.json"
