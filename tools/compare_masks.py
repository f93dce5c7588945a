#!/usr/bin/env python3
"""Draws where a mask differs from a reference: what it lacks in blue, what it has beside it in orange, on three slices of the head.

    tools/compare_masks.py HEAD.nii.gz REFERENCE.nii.gz MASK.nii.gz PICTURE.png

The three images share a grid. Each slice goes through the place where most is missing. Needs numpy, nibabel and Pillow.
"""

import argparse

import nibabel as nib
import numpy as np
from PIL import Image

from walk_picture import framed, side_by_side

EDGE = 300
LACKS, BESIDE = np.array([0, 114, 255]), np.array([255, 153, 0])


def load(path):
    image = nib.as_closest_canonical(nib.load(path))
    return np.squeeze(np.asarray(image.dataobj, dtype=np.float32)), image.header.get_zooms()[:3]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("head", "reference", "mask", "picture"):
        parser.add_argument(name)
    options = parser.parse_args()
    (head, mm), (reference, _), (mask, _) = (load(p) for p in (options.head, options.reference, options.mask))
    reference, mask = reference > 0.5, mask > 0.5
    lacks, beside = reference & ~mask, mask & ~reference
    grey = np.clip(head / np.percentile(head, 99.5), 0, 1) * 255
    panels = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        at = int(np.argmax(lacks.sum(others)))
        take = lambda volume: np.flipud(np.take(volume, at, axis).T)
        rgb = np.repeat(take(grey)[..., None], 3, -1)
        for which, colour in ((lacks, LACKS), (beside, BESIDE)):
            here = take(which)
            rgb[here] = 0.35 * rgb[here] + 0.65 * colour
        panels.append(framed(np.uint8(rgb), [mm[a] for a in others], edge=EDGE, sampling=Image.LANCZOS))
    side_by_side(panels).save(options.picture, optimize=True)


if __name__ == "__main__":
    main()
