#!/usr/bin/env python3
"""How much masks suffer from what scanners and headers do to heads: bias, noise, thick slices, turned heads, cut fields of view,
inverted contrast, offsets, hot voxels.

    tools/robustness.py OUT --heads TABLE [--contrast T1w] [--program "target/release/trephine"] [--model NAME]
                        [--only FAMILY...] [--every N]

TABLE: pairs of heads and masks (columns image, mask and, if --contrast is given, contrast). Each head is written to OUT in each
family, with the mask that is right for it, and `trephine evaluate` judges them. Prints a row a family, for a model card:
median and worst Dice, and the median of the drop from the head as it is. Needs numpy, scipy and nibabel.
"""

import argparse
import csv
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

# What "cut" leaves out of sight, mm below the highest brain voxel.
VERTEX_MM = 25.0


class Head:
    """An image with its mask in the nearest order of axes to right, front, up."""

    def __init__(self, image, mask):
        load = lambda path: nib.as_closest_canonical(nib.load(path))
        scan, brain = load(image), load(mask)
        self.affine = scan.affine
        self.voxels = np.squeeze(np.asarray(scan.dataobj, dtype=np.float32))
        self.mask = np.squeeze(np.asarray(brain.dataobj)) > 0.5
        self.mm = np.sqrt((self.affine[:3, :3] ** 2).sum(0))

    def tissue(self):
        """The level of bright brain tissue and the level of the background."""
        return np.percentile(self.voxels[self.mask], 90), np.percentile(self.voxels, 1)

    def cut(self, axis, keep):
        """The planes `keep` along an axis, alone."""
        first = np.zeros(3)
        first[axis] = keep.start
        affine = self.affine.copy()
        affine[:3, 3] += self.affine[:3, :3] @ first
        window = tuple(keep if a == axis else slice(None) for a in range(3))
        return self.voxels[window], self.mask[window], affine


def as_it_is(head, rng):
    return head.voxels, head.mask, head.affine


def bias(head, rng):
    """A smooth field whose greatest value is four times its least."""
    field = ndimage.zoom(rng.normal(size=(4, 4, 4)), np.array(head.voxels.shape) / 4, order=3)
    field = field[tuple(slice(n) for n in head.voxels.shape)]
    field = (field - field.min()) / np.ptp(field)
    _, air = head.tissue()
    return air + (head.voxels - air) * 4.0 ** (field - 0.5), head.mask, head.affine


def noise(head, rng):
    """Rician, a tenth of white matter's signal."""
    bright, air = head.tissue()
    sigma = 0.1 * (bright - air)
    real = head.voxels - air + rng.normal(0.0, sigma, head.voxels.shape)
    return air + np.hypot(real, rng.normal(0.0, sigma, head.voxels.shape)), head.mask, head.affine


def slices(head, rng):
    """Slices of 5 mm from below upwards: means of what they cover."""
    thick = 5.0 / head.mm[2]
    n = head.voxels.shape[2]
    count = int(n / thick)
    at, edges = np.arange(n), np.arange(count + 1) * thick
    # The share of each old slice that each new one covers.
    weights = np.clip(np.minimum(at[:, None] + 1, edges[None, 1:]) - np.maximum(at[:, None], edges[None, :-1]), 0, None)
    weights /= weights.sum(0)
    affine = head.affine.copy()
    affine[:3, 3] += head.affine[:3, 2] * (thick - 1) / 2
    affine[:3, 2] *= thick
    return head.voxels @ weights, head.mask.astype(np.float32) @ weights >= 0.5, affine


def turned(head, rng):
    """By 40 degrees about a random axis, in the header alone."""
    axis = rng.normal(size=3)
    axis /= np.linalg.norm(axis)
    cross = np.cross(np.eye(3), axis)
    angle = np.deg2rad(40.0)
    turn = np.eye(4)
    turn[:3, :3] = np.cos(angle) * np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * np.outer(axis, axis)
    return head.voxels, head.mask, turn @ head.affine


def no_vertex(head, rng):
    """The field of view ends below the highest brain."""
    top = np.nonzero(head.mask.any((0, 1)))[0].max()
    return head.cut(2, slice(0, max(8, int(top + 1 - VERTEX_MM / head.mm[2]))))


def half(head, rng):
    """Only the right half, or the left, of the head is in view, and a little more."""
    sides = np.nonzero(head.mask.any((1, 2)))[0]
    middle, margin = int(sides.mean()), int(round(10.0 / head.mm[0]))
    return head.cut(0, slice(0, middle + margin) if rng.random() < 0.5 else slice(middle - margin, None))


def inverted(head, rng):
    """Dark where it was bright, in the head and round it."""
    return head.voxels.max() - head.voxels, head.mask, head.affine


def offset(head, rng):
    return head.voxels + 1000.0, head.mask, head.affine


def hot(head, rng):
    """200 voxels at a thousand times the greatest value."""
    voxels = head.voxels.copy()
    voxels.ravel()[rng.choice(voxels.size, 200, replace=False)] = 1000.0 * voxels.max()
    return voxels, head.mask, head.affine


FAMILIES = {
    "as it is": as_it_is,
    "bias, a range of 4": bias,
    "noise, 10% of white matter": noise,
    "slices of 5 mm": slices,
    "turned by 40 degrees": turned,
    "vertex out of view": no_vertex,
    "half out of view": half,
    "contrast inverted": inverted,
    "1000 added": offset,
    "200 hot voxels": hot,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--heads", type=Path, required=True)
    parser.add_argument("--contrast")
    parser.add_argument("--program", default="target/release/trephine")
    parser.add_argument("--model", default="default")
    parser.add_argument("--only", nargs="*", choices=list(FAMILIES), default=list(FAMILIES))
    parser.add_argument("--every", type=int, default=1)
    options = parser.parse_args()

    with options.heads.open() as table:
        rows = [r for r in csv.DictReader(table, delimiter="\t") if options.contrast in (None, r.get("contrast"))]
    rows = rows[:: options.every]
    dice = {}
    for family in options.only:
        folder = options.out / family.replace(" ", "_").replace(",", "").replace("%", "")
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "pairs.tsv").open("w") as pairs:
            print("image\tmask", file=pairs)
            for number, row in enumerate(rows):
                head = Head(options.heads.parent / row["image"], options.heads.parent / row["mask"])
                image, mask, affine = FAMILIES[family](head, np.random.default_rng(number))
                for name, voxels in ((f"{number:03}.nii.gz", image.astype(np.float32)), (f"{number:03}_mask.nii.gz", mask.astype(np.uint8))):
                    scan = nib.Nifti1Image(np.ascontiguousarray(voxels), affine)
                    scan.header.set_xyzt_units("mm")
                    nib.save(scan, folder / name)
                print(f"{number:03}.nii.gz\t{number:03}_mask.nii.gz", file=pairs)
        judged = folder / "figures.csv"
        command = [*options.program.split(), "evaluate", "--data", folder / "pairs.tsv", "--model", options.model, "--csv", judged, "--quiet"]
        subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)
        with judged.open() as figures:
            dice[family] = np.array([float(r["dice"]) for r in csv.DictReader(figures)][: len(rows)])
        print(f"{family}: median {np.median(dice[family]):.4f}", flush=True)

    plain = dice.get("as it is")
    print(f"\n| {len(rows)} heads | Dice: median | worst | median drop |\n|---|---|---|---|")
    for family, values in dice.items():
        drop = "" if plain is None or family == "as it is" else f"{np.median(plain - values):.3f}"
        print(f"| {family} | {np.median(values):.3f} | {values.min():.3f} | {drop} |")


if __name__ == "__main__":
    main()
