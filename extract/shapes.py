"""Shapes of features, computed without building the backbone."""

from __future__ import annotations

from features.options import Pool

_NUM_CHANNELS = {
    **{"mixed0": 256, "mixed1": 288, "mixed2": 288, "mixed8": 1280, "mixed9": 2048, "mixed10": 2048},
    **dict.fromkeys(["mixed3", "mixed4", "mixed5", "mixed6", "mixed7", "mixed9_0", "mixed9_1"], 768),
}
_LAST = ("mixed8", "mixed9", "mixed10", "mixed9_0", "mixed9_1")


def compute_feature_shape(cut: str, image_size: int, pool: Pool = Pool.NONE) -> tuple[int, ...] | None:
    """Return the shape of the features of a `mixed` layer; None for any other layer.

    Source: the kernels, strides and channels of InceptionV3 (arXiv:1512.00567) as in `keras.applications`.

    Args:
        cut: name of the cut layer.
        image_size: side of the input, in pixels.
        pool: `avg` leaves only the channels.
    """
    if cut not in _NUM_CHANNELS:
        return None
    num_channels = _NUM_CHANNELS[cut]
    if pool is Pool.AVG:
        return (num_channels,)
    # The stem: a convolution with stride 2, one of size 3, and twice a pooling with stride 2 around one of size 3.
    side = _halve(_halve(_halve(image_size) - 2) - 2)
    if cut not in ("mixed0", "mixed1", "mixed2"):
        side = _halve(side)
    if cut in _LAST:
        side = _halve(side)
    return side, side, num_channels


def _halve(side: int) -> int:
    """Return the side after a layer of size 3 and stride 2 without padding."""
    return (side - 3) // 2 + 1
