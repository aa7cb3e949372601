"""The smallest model that has every part."""

SIZES = {
    "image_size": 32,
    "dim": 32,
    "depth": 2,
    "heads": 2,
    "decoder_dim": 32,
    "decoder_depth": 1,
    "decoder_heads": 2,
}
ARGUMENTS = [f"--model.{name}={value}" for name, value in SIZES.items()] + ["--swap.min_block=2"]
