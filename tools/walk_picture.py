#!/usr/bin/env python3
"""Draws the way of a head for docs/how.md: as read, its bias field, as the network sees it, probability, mask.

    tools/walk_picture.py HEAD.nii.gz PICTURE.png [--program "target/release/trephine"]

Runs `trephine` for the images of every step, and takes the axial slice through the middle of the brain. Needs numpy, nibabel
and Pillow.
"""

import argparse
import subprocess
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image, ImageDraw

EDGE = 230
ORANGE = (255, 153, 0)


def axial(path, at_mm):
    """The axial slice at a world height, left on the left, front up, voxels in the nearest of right, front, up; and its voxel size."""
    image = nib.as_closest_canonical(nib.load(path))
    height = int(round((np.linalg.inv(image.affine) @ [0, 0, at_mm, 1])[2]))
    slice_ = np.squeeze(np.asarray(image.dataobj, dtype=np.float32))[:, :, height]
    return np.flipud(slice_.T), image.header.get_zooms()[:2]


def grey(slice_, low, high):
    return np.uint8(np.clip((slice_ - low) / (high - low), 0, 1) * 255)


def framed(pixels, zooms, title="", edge=EDGE, sampling=Image.NEAREST):
    """A slice, grey or coloured, as a square picture of `edge` pixels with voxels in their proportions, its title above."""
    height, width = (n * mm for n, mm in zip(pixels.shape, zooms[::-1]))
    scale = edge / max(height, width)
    picture = Image.fromarray(pixels).convert("RGB").resize((round(width * scale), round(height * scale)), sampling)
    top = 26 if title else 4
    canvas = Image.new("RGB", (edge + 8, edge + top))
    canvas.paste(picture, ((edge + 8 - picture.width) // 2, top))
    ImageDraw.Draw(canvas).text((6, 7), title, fill=(230, 230, 230))
    return canvas


def side_by_side(panels):
    whole = Image.new("RGB", (sum(p.width for p in panels), panels[0].height))
    for number, panel in enumerate(panels):
        whole.paste(panel, (number * panel.width, 0))
    return whole


def outlined(pixels, mask):
    """Grey pixels with the mask's edge in orange; as RGB."""
    rgb = np.stack([pixels] * 3, -1)
    inside = mask > 0.5
    core = inside.copy()
    for axis in (0, 1):
        for step in (1, -1):
            core &= np.roll(inside, step, axis)
    rgb[inside & ~core] = ORANGE
    return rgb


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("head", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--program", default="target/release/trephine")
    options = parser.parse_args()
    program = options.program.split()
    with tempfile.TemporaryDirectory() as folder:
        at = lambda name: str(Path(folder) / name)
        run = lambda *arguments: subprocess.run([*program, *arguments, "--quiet"], check=True)
        run("strip", "-i", str(options.head), "--n4", "--bias", at("bias.nii.gz"), "-m", at("mask.nii.gz"), "-p", at("p.nii.gz"))
        run("resample", "-i", str(options.head), "-o", at("grid.nii.gz"), "--voxel", "2", "--interpolation", "area")
        mask = nib.as_closest_canonical(nib.load(at("mask.nii.gz")))
        rows = np.argwhere(np.squeeze(np.asarray(mask.dataobj)) > 0)
        middle_mm = (mask.affine @ [*((rows.min(0) + rows.max(0)) / 2), 1])[2]
        head, zooms = axial(options.head, middle_mm)
        low, high = 0.0, np.percentile(head, 99.5)
        bias, _ = axial(at("bias.nii.gz"), middle_mm)
        grid, grid_zooms = axial(at("grid.nii.gz"), middle_mm)
        probability, _ = axial(at("p.nii.gz"), middle_mm)
        brain, _ = axial(at("mask.nii.gz"), middle_mm)
        bright = grey(head, low, high)
        panels = [
            framed(bright, zooms, "as read"),
            framed(grey(bias, *np.percentile(bias, (1, 99))), zooms, "bias field (N4)"),
            framed(grey(grid, low, high), grid_zooms, "the network's voxels, 2 mm"),
            framed(grey(probability, 0.0, 1.0), zooms, "probability, native grid"),
            framed(outlined(bright, brain), zooms, "mask"),
        ]
    side_by_side(panels).save(options.picture, optimize=True)


if __name__ == "__main__":
    main()
