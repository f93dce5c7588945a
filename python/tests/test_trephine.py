"""Trephine from Python: needs the program (TREPHINE) and nibabel; HEAD and MODEL name a head and a weight file."""

import os
import tempfile
import unittest
from pathlib import Path

import nibabel
import numpy

import trephine

try:
    import trephine.nipype as interface
except ImportError:
    interface = None

HEAD, MODEL = os.environ["HEAD"], os.environ["MODEL"]


class TestStrip(unittest.TestCase):
    def test_a_path_becomes_images_in_memory(self):
        head = nibabel.load(HEAD)
        result = trephine.strip(HEAD, model=MODEL, distance=True, probability=True, fill=7)
        mask = numpy.asarray(result.mask.dataobj)
        self.assertEqual(mask.dtype, numpy.uint8)
        self.assertEqual(set(numpy.unique(mask)), {0, 1})
        numpy.testing.assert_array_equal(result.mask.affine, head.affine)
        brain, scan = result.brain.get_fdata(), head.get_fdata()
        numpy.testing.assert_array_equal(brain[mask == 1], scan[mask == 1])
        self.assertTrue((brain[mask == 0] == 7).all())
        self.assertTrue((result.distance.get_fdata()[mask == 1] < 0).all())
        probability = result.probability.get_fdata()
        self.assertTrue(probability.min() >= 0 and probability.max() <= 1)
        ml = mask.sum() * abs(numpy.linalg.det(head.affine[:3, :3])) / 1000
        self.assertAlmostEqual(result.brain_ml, ml, places=2)
        self.assertTrue(0 <= result.score <= 1)
        self.assertEqual(len(result.provenance["model_sha256"]), 64)

    def test_an_image_is_stripped_like_its_file(self):
        by_path = trephine.strip(HEAD, model=MODEL, border=3)
        by_image = trephine.strip(nibabel.load(HEAD), model=MODEL, border=3)
        numpy.testing.assert_array_equal(by_path.mask.get_fdata(), by_image.mask.get_fdata())
        numpy.testing.assert_array_equal(by_path.brain.get_fdata(), by_image.brain.get_fdata())
        self.assertEqual(by_path.brain.get_data_dtype(), by_image.brain.get_data_dtype())
        self.assertEqual(by_path.brain.dataobj.slope, by_image.brain.dataobj.slope)
        self.assertIsNone(by_path.distance)
        self.assertGreater(by_path.brain_ml, trephine.strip(HEAD, model=MODEL).brain_ml)

    def test_errors_say_what_to_do(self):
        with self.assertRaisesRegex(trephine.TrephineError, "none.nii"):
            trephine.strip("none.nii", model=MODEL)
        with self.assertRaisesRegex(trephine.TrephineError, "does not offer --no-csf"):
            trephine.strip(HEAD, model=MODEL, no_csf=True)
        empty = nibabel.Nifti1Image(numpy.zeros((30, 30, 30), numpy.float32), numpy.diag([5, 5, 5, 1]))
        with self.assertRaises(trephine.TrephineError):
            trephine.strip(empty, model=MODEL)


@unittest.skipIf(interface is None, "no nipype")
class TestNipype(unittest.TestCase):
    def test_a_node_writes_into_its_folder(self):
        before = os.getcwd()
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            try:
                node = interface.Strip(in_file=HEAD, model=MODEL, distance_file="sdt.nii.gz", border=3.0)
                self.assertIn("--border=3", node.cmdline)
                outputs = node.run().outputs
            finally:
                os.chdir(before)
            self.assertEqual(Path(outputs.mask_file).name, "head_mask.nii.gz")
            wanted = trephine.strip(HEAD, model=MODEL, border=3, distance=True)
            for file, image in [
                (outputs.out_file, wanted.brain),
                (outputs.mask_file, wanted.mask),
                (outputs.distance_file, wanted.distance),
            ]:
                self.assertTrue(Path(file).is_file() and Path(file).parent == Path(folder).resolve(), file)
                numpy.testing.assert_array_equal(nibabel.load(file).get_fdata(), image.get_fdata())


if __name__ == "__main__":
    unittest.main()
