"""Trephine as a node of Nipype workflows.

    from trephine.nipype import Strip
    Strip(in_file="head.nii.gz").run().outputs.mask_file
"""

import os

from nipype.interfaces.base import CommandLine, CommandLineInputSpec, File, TraitedSpec, traits
from nipype.utils.filemanip import split_filename

from . import program


class StripInputSpec(CommandLineInputSpec):
    """Inputs: those of `trephine strip` for one head."""

    in_file = File(exists=True, mandatory=True, argstr="-i %s", desc="head to strip")
    out_file = File(argstr="-o %s", genfile=True, desc="the brain: the head inside the mask")
    mask_file = File(argstr="-m %s", genfile=True, desc="the mask, 0 and 1")
    distance_file = File(argstr="-d %s", desc="signed distance to the mask's border in mm, negative inside")
    probability_file = File(argstr="-p %s", desc="probability of brain")
    qc_file = File(argstr="-q %s", desc="picture to check the result with")
    border = traits.Float(argstr="--border=%g", desc="move the mask's border outward by so many mm")
    fill = traits.Float(argstr="--fill=%g", desc="value outside the brain")
    no_csf = traits.Bool(argstr="--no-csf", desc="leave out the CSF around the brain, with models that offer it")
    model = traits.Str(argstr="--model=%s", desc="a built-in model by name, or a weight file")
    tta = traits.Bool(argstr="--tta", desc="average over mirrored and moved passes")
    device = traits.Str(argstr="--device=%s", desc="number or name of the adapter")


class StripOutputSpec(TraitedSpec):
    """Outputs: the files that were written."""

    out_file = File(exists=True, desc="the brain")
    mask_file = File(exists=True, desc="the mask")
    distance_file = File(exists=True, desc="signed distance to the mask's border in mm")
    probability_file = File(exists=True, desc="probability of brain")
    qc_file = File(exists=True, desc="picture to check the result with")


class Strip(CommandLine):
    """Brain extraction by Trephine."""

    input_spec = StripInputSpec
    output_spec = StripOutputSpec
    _cmd = "trephine strip"

    def __init__(self, **inputs):
        super().__init__(command=f"{program()} strip", **inputs)

    def _gen_filename(self, name):
        ends = {"out_file": "brain", "mask_file": "mask"}
        if name not in ends:
            return None
        _, stem, extension = split_filename(self.inputs.in_file)
        extension = ".mgz" if extension.lower() in (".mgz", ".mgh") else ".nii.gz"
        return os.path.abspath(f"{stem}_{ends[name]}{extension}")

    def _list_outputs(self):
        outputs = self.output_spec().get()
        for name in outputs:
            given = getattr(self.inputs, name)
            if isinstance(given, str):
                outputs[name] = os.path.abspath(given)
            elif name in ("out_file", "mask_file"):
                outputs[name] = self._gen_filename(name)
        return outputs
