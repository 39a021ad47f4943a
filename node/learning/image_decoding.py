"""From the bytes of one image file to pixels."""

import io
import logging
import warnings
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from node.core.errors import DataError
from node.learning.data_files import one_line

_FORMATS: Final = ("JPEG", "PNG", "PPM", "BMP", "DIB", "TIFF", "WEBP", "GIF")
"""Formats that a file may be in, whatever its name. Pillow knows others, some of which start programs."""

_TIFF_BITS: Final = 258
_SILENT: Final = logging.NullHandler()


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """One image.

    Attributes:
        pixels: Shape (H, W, C), uint8; C is 1 for grey and 3 for colour.
        has_more_frames: Whether the file holds further frames or pages, which are not read.
    """

    pixels: npt.NDArray[np.uint8]
    has_more_frames: bool


def decode(content: bytes, place: str) -> DecodedImage:
    """Decode the first frame of an image; grey stays one channel, everything else becomes RGB, transparency is dropped.

    Grey of more than 8 bits is scaled so that black and white stay black and white; colour of 16 bits keeps its upper
    8, as in Pillow.

    Args:
        content: The file.
        place: The file's name, for messages.

    Raises:
        DataError: It is not a readable image, or has pixels whose range is not known.
    """
    from PIL import Image, UnidentifiedImageError

    logging.getLogger("PIL").addHandler(_SILENT)  # what it says of a damaged file is in the error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
                pixels = _pixels(image, place)
                has_more_frames = getattr(image, "n_frames", 1) > 1
    except DataError:
        raise
    except UnidentifiedImageError as error:  # its text is the address of the buffer
        raise DataError(f"{place}: is not a readable image") from error
    except Exception as error:  # decoders raise whatever they meet in a damaged file
        raise DataError(f"{place}: is not a readable image ({one_line(error)})") from error
    return DecodedImage(pixels if pixels.ndim == 3 else pixels[:, :, None], has_more_frames)


def _pixels(image: Any, place: str) -> npt.NDArray[np.uint8]:
    """Shape (H, W) or (H, W, 3)."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        bits = image.tag_v2.get(_TIFF_BITS, (16,))[0] if image.format == "TIFF" else 16
        white = 2**bits - 1
        values = np.asarray(image).astype(np.uint32)
        return np.asarray((values * 255 + white // 2) // white, dtype=np.uint8)
    if image.mode in ("I", "F"):
        raise DataError(f"{place}: has signed or 32-bit pixels, whose range is not known; must be 8 or 16 bits")
    return np.array(image.convert("L" if image.mode in ("1", "L", "LA") else "RGB"), dtype=np.uint8)
