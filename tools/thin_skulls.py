#!/usr/bin/env python3
"""Copies of training heads whose skull and scalp lie closer to the brain than in the scan, and brighter or darker.

    tools/thin_skulls.py TABLE OUT [--seed N]

TABLE is a table of pairs as `trephine train` reads it. For each head OUT gets one image, warped outside the brain alone:
a voxel at distance d from the mask takes the intensity at distance d (1 + k), k log-normal round 0.6, along the gradient
of the distance, times a factor, log-normal round 1.3. The mask stays as it is, so that no network can learn the brain's
border from its distance to the air, or its brightness from that of the scalp, as it does from adults of one site. Writes OUT/pairs.tsv. Needs numpy, scipy and nibabel.
"""

import argparse
import csv
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage


def thin(image, mask, voxel_mm, stretch, gain):
    """`image` with what lies outside `mask` pulled towards it by the factor 1 + `stretch` and `gain` times as bright.

    Over 2 mm at the border the gain rises from 1, so that no edge of its own appears there.
    """
    outside = ndimage.distance_transform_edt(~mask, sampling=voxel_mm)
    smooth = ndimage.gaussian_filter(outside, 4.0 / np.asarray(voxel_mm))
    gradient = np.stack(np.gradient(smooth, *voxel_mm))
    gradient /= np.maximum(np.linalg.norm(gradient, axis=0), 1e-3)
    # Beyond 60 mm (neck, shoulders) the pull stays what it is there.
    pull_mm = stretch * np.minimum(outside, 60.0)
    at = np.indices(image.shape) + gradient * pull_mm / np.asarray(voxel_mm).reshape(3, 1, 1, 1)
    warped = ndimage.map_coordinates(image, at, order=1, mode="constant", cval=float(image.min()))
    return np.where(mask, image, warped * (1.0 + (gain - 1.0) * np.clip(outside / 2.0 - 0.5, 0.0, 1.0)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    arguments.out.mkdir(parents=True, exist_ok=True)
    with open(arguments.table, newline="") as table, open(arguments.out / "pairs.tsv", "w") as pairs:
        print("image\tmask", file=pairs)
        for row in csv.DictReader(table, delimiter="\t"):
            source = arguments.table.parent / row["image"]
            scan, truth = nib.load(source), nib.load(arguments.table.parent / row["mask"])
            image, mask = np.squeeze(scan.dataobj).astype(np.float32), np.squeeze(truth.dataobj) > 0
            stretch = 0.6 * np.exp(rng.normal(0.0, 0.5))
            gain = 1.3 * np.exp(rng.normal(0.0, 0.5))
            result = thin(image, mask, scan.header.get_zooms()[:3], stretch, gain)
            name = source.name.split(".")[0]
            nib.save(nib.Nifti1Image(result.astype(np.float32), scan.affine), arguments.out / f"{name}.nii.gz")
            nib.save(nib.Nifti1Image(mask.astype(np.uint8), truth.affine), arguments.out / f"{name}_mask.nii.gz")
            print(f"{name}.nii.gz\t{name}_mask.nii.gz", file=pairs, flush=True)


if __name__ == "__main__":
    main()
