"""The counts of one forward pass at the released size stay where they are."""

from modality_forcing.tasks.bench.cost import count, plain_call


def test_one_pass_of_the_plain_module():
    """512 x 512, batch 2, bf16; it was 111.6 GB, 1131 kernels and 0.94 GiB before the kernels were lean."""
    whole = count(plain_call(512))
    assert whole["traffic GB"] < 65
    assert whole["kernels"] <= 740
    assert whole["live GiB"] < 0.65
    for wanted, saved in (("rgb", 3.5), ("depth", 0.4)):
        part = count(plain_call(512, (wanted,)))
        assert whole["TFLOP"] - part["TFLOP"] > saved, wanted
