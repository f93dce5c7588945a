#!/usr/bin/env python3
"""What the signals of `trephine strip --json` are on heads and on nonsense, to set the thresholds of plausibility.rs by.

    tools/calibrate_plausibility.py OUT [--program "target/release/trephine"] [--model NAME|FILE] [--heads TABLE]... [--every N]
                                    [--files FILE...] [--from TABLE --take N]

--heads: tables of pairs whose heads must not be doubted where their mask is right; every N-th row. --files: images of which
nothing is known. --from: the first N heads of a table are turned, scaled, cut and stripped, and nonsense is made beside them:
noise, balls, bottles, boxes, ramps. Runs the program in batches, compares masks with what is known, and writes OUT/signals.md: a
row a file, and at the end who was doubted wrongly (Dice of 0.9 and more) and who passed without a word (Dice below
0.9, or no brain in it). Needs numpy, scipy and nibabel.
"""

import argparse
import csv
import json
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

# A mask that agrees as well with its reference is right enough not to need a warning.
RIGHT_DICE = 0.9
SIGNALS = [
    "brain_ml", "unsure", "mirrored_dice", "texture", "width_to_length", "height_to_width", "cut_cm2", "cut_face", "bare",
]  # fmt: skip


class Cases:
    """Images to strip: group, name, file, and the mask that is right (None: unknown, False: there is none)."""

    def __init__(self, folder):
        self.folder, self.all = folder, []
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, group, name, path, mask=None):
        self.all.append({"group": group, "name": name, "path": Path(path), "mask": mask})

    def save(self, group, name, image, affine, mask=False):
        path = self.folder / f"{name}.nii.gz"
        if not path.exists():
            scan = nib.Nifti1Image(np.ascontiguousarray(image, dtype=np.float32), affine)
            scan.header.set_xyzt_units("mm")
            nib.save(scan, path)
        self.add(group, name, path, mask)


def canonical(path):
    scan = nib.load(path)
    scan = nib.as_closest_canonical(nib.Nifti1Image(np.squeeze(scan.dataobj).astype(np.float32), scan.affine))
    return np.asarray(scan.dataobj), scan.affine


def nonsense(cases):
    """What shows no head at all, on 92 x 110 x 108 voxels of 2 mm."""
    rng = np.random.default_rng(0)
    shape, affine = (92, 110, 108), np.diag([2.0, 2.0, 2.0, 1.0])
    place = np.indices(shape) * 2.0 - np.array(shape).reshape(3, 1, 1, 1)
    x, y, z = place
    air = lambda: np.abs(rng.normal(0.0, 10.0, shape))
    smooth = lambda voxels: ndimage.gaussian_filter(rng.normal(0.0, 1.0, shape), voxels)
    ellipsoid = lambda a, b, c: (x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2 < 1.0
    save = lambda name, image: cases.save("nonsense", name, image, affine)
    save("noise", rng.normal(100.0, 10.0, shape))
    save("noise_rician", np.hypot(rng.normal(0.0, 50.0, shape), rng.normal(0.0, 50.0, shape)))
    for voxels in (1, 2, 4, 8):
        save(f"noise_of_{2 * voxels}_mm", 1000.0 * smooth(voxels))
    for radius in (40, 60, 85):
        save(f"sphere_{radius}", 1000.0 * ellipsoid(radius, radius, radius) + air())
    save("ellipsoid", 1000.0 * ellipsoid(72, 92, 85) + air())
    save("ellipsoid_with_skull", 1000.0 * ellipsoid(72, 92, 85) - 900.0 * ellipsoid(66, 86, 79) + 500.0 * ellipsoid(60, 80, 72) + air())
    save("ellipsoid_with_texture", ellipsoid(72, 92, 85) * (500.0 + 3000.0 * smooth(2)) + air())
    save("sphere_with_texture", ellipsoid(85, 85, 85) * (500.0 + 5000.0 * smooth(3)) + air())
    save("bottle", 1000.0 * ((np.hypot(x, y) < 60) & (np.abs(z) < 90)) + air())
    save("bottle_lying", 1000.0 * ((np.hypot(x, z) < 60) & (np.abs(y) < 90)) + air())
    save("bottle_thick", 1000.0 * ((np.hypot(x, y) < 80) & (np.abs(z) < 90)) + air())
    save("box", 1000.0 * ((np.abs(x) < 70) & (np.abs(y) < 90) & (np.abs(z) < 80)) + air())
    save("box_small", 1000.0 * (np.abs(place) < 40).all(0) + air())
    save("ramp_x", x)
    save("ramp_z", z)
    save("cone", np.linalg.norm(place, axis=0))
    save("half", 1000.0 * (x > 0))
    save("blocks", 1000.0 * np.kron(rng.random((6, 7, 7)), np.ones((16, 16, 16)))[: shape[0], : shape[1], : shape[2]])


def turned(axis, degrees):
    """Rotation about a world axis."""
    t, (i, j) = np.deg2rad(degrees), [(1, 2), (0, 2), (0, 1)][axis]
    matrix = np.eye(4)
    matrix[i, i] = matrix[j, j] = np.cos(t)
    matrix[i, j], matrix[j, i] = -np.sin(t), np.sin(t)
    return matrix


def spoilt(cases, name, image, affine, mask):
    """A head whose header lies, whose field of view cuts it, or whose skull is gone."""
    save = lambda group, what, image, affine, mask: cases.save(group, f"{name}_{what}", image, affine, mask)
    turns = [
        (0, 180, "upside_down"), (1, 180, "upside_down_facing_front"), (2, 180, "facing_back"), (0, 90, "face_down"), (0, -90, "face_up"),
        (1, 90, "on_right_ear"), (1, -90, "on_left_ear"), (2, 90, "facing_left"), (2, -90, "facing_right"),
        (0, 30, "nod_30"), (0, 60, "nod_60"), (0, -60, "nod_-60"), (1, 30, "lean_30"), (1, 60, "lean_60"), (2, 30, "turn_30"), (2, 60, "turn_60"),
    ]  # fmt: skip
    for axis, degrees, what in turns:
        save("turned", what, image, turned(axis, degrees) @ affine, mask)
    for scale in (0.4, 0.55, 0.7, 1.25, 1.5, 2.0):
        save("scaled", f"times_{scale}", image, np.diag([scale, scale, scale, 1.0]) @ affine, mask)
    for axis, scale in ((0, 0.5), (2, 0.5), (2, 2.0)):
        save("scaled", f"{'xyz'[axis]}_times_{scale}", image, np.diag(np.insert(np.where(np.arange(3) == axis, scale, 1.0), 3, 1.0)) @ affine, mask)
    voxel_mm = nib.affines.voxel_sizes(affine)
    outside = ndimage.distance_transform_edt(~mask, sampling=voxel_mm)
    inside = ndimage.distance_transform_edt(mask, sampling=voxel_mm)
    save("stripped", "stripped", np.where(mask, image, 0.0), affine, mask)
    save("stripped", "stripped_in_-1000", np.where(mask, image, -1000.0), affine, mask)
    save("stripped", "stripped_3mm_tight", np.where(inside > 3.0, image, 0.0), affine, mask)
    save("stripped", "stripped_5mm_loose", np.where(outside < 5.0, image, 0.0), affine, mask)
    brain = [np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    at = lambda axis, share: int(brain[axis][0] + share * (brain[axis][-1] - brain[axis][0]))
    cuts = {
        "top_15": (2, None, at(2, 0.85)), "top_40": (2, None, at(2, 0.6)), "bottom_25": (2, at(2, 0.25), None), "bottom_50": (2, at(2, 0.5), None),
        "left_20": (0, at(0, 0.2), None), "front_20": (1, None, at(1, 0.8)), "neck": (2, brain[2][0], None),
    }  # fmt: skip
    for what, (axis, first, end) in cuts.items():
        part = tuple(slice(first, end) if a == axis else slice(None) for a in range(3))
        shift = np.eye(4)
        shift[axis, 3] = first or 0
        save("cut", f"without_{what}", image[part], affine @ shift, mask[part])
    spread = image[mask].std()
    save("judged", "noisy", image + np.random.default_rng(1).normal(0.0, 2.0 * spread, image.shape), affine, mask)
    save("judged", "blurred", ndimage.gaussian_filter(image, 8.0 / voxel_mm), affine, mask)
    save("judged", "inverted", image.max() - image, affine, mask)


def rows_of(table):
    with open(table, newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def strip(program, model, out, cases):
    """The program's rows by path: names of one batch must differ, so a batch a group."""
    found = {}
    for group in dict.fromkeys(case["group"] for case in cases):
        paths = [str(case["path"]) for case in cases if case["group"] == group]
        folder = out / "masks" / group
        run = subprocess.run([*program, "strip", "--model", model, "--json", "--force", "-O", str(folder), *paths], stdout=subprocess.PIPE, check=False)
        for head in json.loads(run.stdout)["heads"]:
            found[head["path"]] = head
    return found


def dice(head, mask):
    if mask is None or mask is False or not head["outputs"]:
        return None
    mask = np.squeeze(nib.load(mask).dataobj) > 0 if isinstance(mask, Path) else mask
    got = np.squeeze(nib.load(head["outputs"]["mask"]).dataobj) > 0
    return 2.0 * (got & mask).sum() / (got.sum() + mask.sum())


def text_of(value):
    return "" if value is None else f"{value:.3g}" if isinstance(value, float) and value < 100 else f"{value:.0f}" if isinstance(value, float) else str(value)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--program", default="target/release/trephine")
    parser.add_argument("--model", default="default")
    parser.add_argument("--heads", type=Path, action="append", default=[])
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--files", type=Path, nargs="*", default=[])
    parser.add_argument("--from", type=Path, dest="source")
    parser.add_argument("--take", type=int, default=1)
    arguments = parser.parse_args()
    cases = Cases(arguments.out / "images")
    for table in arguments.heads:
        for row in rows_of(table)[:: arguments.every]:
            image = table.parent / row["image"]
            cases.add(table.stem, image.name.split(".")[0], image, table.parent / row["mask"] if row["mask"] else None)
    for path in arguments.files:
        cases.add("files", path.name.split(".")[0], path)
    if arguments.source:
        nonsense(cases)
        for row in rows_of(arguments.source)[: arguments.take]:
            path = arguments.source.parent / row["image"]
            image, affine = canonical(path)
            mask, _ = canonical(arguments.source.parent / row["mask"])
            spoilt(cases, path.name.split(".")[0], image, affine, mask > 0)
    heads = strip(arguments.program.split(), arguments.model, arguments.out, cases.all)
    lines = ["| group | image | Dice | " + " | ".join(SIGNALS) + " | warnings |", "|---" * (len(SIGNALS) + 4) + "|"]
    wrongly, silent = [], []
    for case in cases.all:
        head = heads[str(case["path"])]
        agreement = dice(head, case["mask"])
        signals = head["signals"] or {}
        cells = [case["group"], case["name"], text_of(agreement), *(text_of(signals.get(name)) for name in SIGNALS)]
        lines.append("| " + " | ".join([*cells, str(len(head["warnings"])) if signals else "refused"]) + " |")
        right = case["mask"] is not False and (agreement is None or agreement >= RIGHT_DICE)
        known = case["group"] in [table.stem for table in arguments.heads]
        if head["warnings"] and right and known:
            wrongly.append(f"{case['name']}: {'; '.join(head['warnings'])}")
        if signals and not head["warnings"] and not right:
            silent.append(f"{case['name']} ({text_of(agreement) or 'no brain'})")
    lines += ["", f"Doubted though right: {len(wrongly)}", *(f"- {line}" for line in wrongly)]
    lines += ["", f"Wrong without a word: {len(silent)}", *(f"- {line}" for line in silent)]
    (arguments.out / "signals.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
