#!/usr/bin/env python3
"""Make training heads of random contrast from whole-head label maps, after SynthSeg and SynthStrip.

    tools/synthesise_heads.py OUT LABELMAP... [--per-map N] [--seed N]

Writes OUT/<map>_<n>.nii.gz and its mask at 2 mm, 8 bit, and OUT/synthetic.tsv for `trephine train`. Deformation,
bias field, gamma and noise are left to the augmentation of the training itself. Half the heads get a thinner skull, as
children have: the brain grows into it, with or without more CSF. Half of those like a T1w scan get a brain that is dim
beside bright fat, as near a surface coil.

Label maps are those of SynthSeg (FreeSurfer label numbers; Apache-2.0): brain with its CSF is 1 to 499 except skull (165)
and head outside it (258, 259); CSF (24) below the lowest brain tissue runs down the neck and is not brain.
Needs numpy, scipy, nibabel.
"""

import argparse
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter

CSF, SKULL = 24, 165
OUTSIDE = (SKULL, 258, 259)
WHITE = (2, 41, 7, 46, 16, 28, 60, 85, 251, 252, 253, 254, 255)
# Left structures and their right twins share a contrast.
TWINS = {41: 2, 42: 3, 43: 4, 44: 5, 46: 7, 47: 8, 49: 10, 50: 11, 51: 12, 52: 13, 53: 17, 54: 18, 58: 26, 60: 28}
FLUID = (CSF, 4, 5, 14, 15, 43, 44)


def brain_mask(labels):
    """The brain with its CSF, of a volume whose last axis runs upward."""
    brain = (labels > 0) & (labels < 500) & ~np.isin(labels, OUTSIDE)
    tissue = np.flatnonzero((brain & (labels != CSF)).any(axis=(0, 1)))
    brain[:, :, : tissue[0]] = False
    return brain


def grow(labels, brain, rng):
    """Labels and brain mask after the brain has grown 1 to 6 mm outward, at the expense of what surrounds it."""
    # Growth of tissue also fills the CSF between; growth of the whole keeps it.
    seed = brain & ~np.isin(labels, FLUID) if rng.random() < 0.5 else brain
    distance, nearest = distance_transform_edt(~seed, return_indices=True)
    near = distance <= rng.uniform(1.0, 6.0)
    near[:, :, : np.flatnonzero(brain.any(axis=(0, 1)))[0]] = False
    inside = near & ~(brain & np.isin(labels, (4, 5, 14, 15, 43, 44)))
    grown = np.where(inside, labels[tuple(nearest)], labels)
    return grown, brain | near


def contrast(values, rng):
    """Mean intensity of each label, 0 to 1: half the heads like a T1w scan, half without any rule."""
    like_t1w = rng.random() < 0.5
    dim = rng.uniform(0.3, 0.8) if rng.random() < 0.5 else 1.0
    white, grey, fluid = (dim * rng.uniform(*ends) for ends in ((0.75, 1.0), (0.45, 0.8), (0.05, 0.3)))
    means = {}
    for label in values:
        twin = TWINS.get(label, label)
        if label == 0:
            mean = rng.uniform(0.0, 0.04)
        elif twin in means:
            mean = means[twin]
        elif not like_t1w or label >= 500 or label in (258, 259):
            mean = rng.uniform(0.1, 1.0)
            if like_t1w and dim < 1.0 and label in (258, 259):
                mean = 1.0
        elif label in FLUID:
            mean = fluid
        elif label == SKULL:
            mean = rng.uniform(0.05, 0.5)
        elif label in WHITE:
            mean = white * rng.uniform(0.9, 1.0)
        else:
            mean = grey * rng.uniform(0.9, 1.1)
        means[label] = mean
    return np.array([means[label] for label in values], np.float32)


def halve(volume):
    """Means of 2x2x2 blocks; an odd last plane is repeated."""
    volume = np.pad(volume, [(0, n % 2) for n in volume.shape], mode="edge")
    a, b, c = (n // 2 for n in volume.shape)
    return volume.reshape(a, 2, b, 2, c, 2).mean(axis=(1, 3, 5))


def synthesise(labels, rng):
    """One image of 0 to 255 on the labels' grid."""
    values, index = np.unique(labels, return_inverse=True)
    index = index.reshape(labels.shape)
    spread = rng.uniform(0.02, 0.1, len(values)).astype(np.float32)
    spread[values == 0] = 0.01
    image = contrast(values.tolist(), rng)[index]
    image += spread[index] * rng.standard_normal(labels.shape, np.float32)
    image = gaussian_filter(image, rng.uniform(0.5, 1.0))
    return np.clip(image * 220.0, 0.0, 255.0)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("maps", type=Path, nargs="+")
    parser.add_argument("--per-map", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    rows = ["image\tmask\tcontrast"]
    for path in options.maps:
        name = f"{path.parent.name}_{path.name.split('.')[0]}"
        source = nib.as_closest_canonical(nib.load(path))
        labels = np.asarray(source.dataobj).round().astype(np.int32)
        # The centre of the first block of eight voxels is the first voxel of the halved grid.
        affine = source.affine @ np.array([[2, 0, 0, 0.5], [0, 2, 0, 0.5], [0, 0, 2, 0.5], [0, 0, 0, 1.0]])
        brain = brain_mask(labels)
        for n in range(options.per_map):
            rng = np.random.default_rng([options.seed, n, zlib.crc32(name.encode())])
            head, mask = grow(labels, brain, rng) if rng.random() < 0.5 else (labels, brain)
            for part, volume in (("", synthesise(head, rng)), ("_mask", mask.astype(np.float32))):
                voxels = halve(volume).round().astype(np.uint8)
                nib.save(nib.Nifti1Image(voxels, affine), options.out / f"{name}_{n}{part}.nii.gz")
            rows.append(f"{name}_{n}.nii.gz\t{name}_{n}_mask.nii.gz\tsynthetic")
    (options.out / "synthetic.tsv").write_text("\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
