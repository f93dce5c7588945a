//! FreeSurfer's format: in, out, and over to NIfTI and back.

use std::fs;

use crate::nii::*;
use trephine::tensor::Xyz;
use trephine::volume::image::{
    FrameChoice, Image, NiftiType, is_mgh_name, read, read_info, write_like, write_mask, write_new,
    write_stripped,
};
use trephine::volume::{FormSource, Problem, Warning};

/// A header and voxels to write, independent of the code under test.
#[derive(Clone)]
pub struct Mgh {
    pub dims: [i32; 4],
    pub kind: i32,
    pub good: i16,
    pub delta: [f32; 3],
    pub cosines: [[f32; 3]; 3],
    pub centre: [f32; 3],
    pub data: Vec<u8>,
    pub tail: Vec<u8>,
}

/// Codes with NIfTI's datatype of the same voxels.
const KINDS: [(i32, i16); 5] = [(0, 2), (1, 8), (3, 16), (4, 4), (10, 512)];

impl Mgh {
    pub fn new(kind: i32, frames: usize) -> Self {
        let (_, datatype) = KINDS.into_iter().find(|(k, _)| *k == kind).unwrap();
        Self {
            dims: [7, 6, 5, frames as i32],
            kind,
            good: 1,
            delta: [0.9, 1.1, 2.5],
            cosines: COSINES,
            centre: [12.5, -3.25, 40.75],
            data: value_bytes(datatype, true, frames),
            // Repetition time 2000 ms, the other parameters, a tag of its own.
            tail: [
                &2000.0_f32.to_be_bytes()[..],
                &[1; 16],
                &3_i32.to_be_bytes(),
                &7_i64.to_be_bytes(),
                b"a word\0",
            ]
            .concat(),
        }
    }

    pub fn head(&self) -> Vec<u8> {
        let mut out = 1_i32.to_be_bytes().to_vec();
        self.dims.iter().for_each(|n| out.extend(n.to_be_bytes()));
        out.extend(self.kind.to_be_bytes());
        out.extend(77_i32.to_be_bytes());
        out.extend(self.good.to_be_bytes());
        let floats = self.delta.iter().chain(self.cosines.iter().flatten()).chain(&self.centre);
        floats.for_each(|f| out.extend(f.to_be_bytes()));
        // Bytes that nobody reads, and that stay.
        out.resize(284, 9);
        out
    }

    pub fn bytes(&self) -> Vec<u8> {
        [self.head(), self.data.clone(), self.tail.clone()].concat()
    }
}

/// Turned about z and x, coronal: rows are the directions of x, y, z.
const COSINES: [[f32; 3]; 3] = [
    [-0.955_336_5, -0.295_520_22, 0.0],
    [0.058_710_802, -0.189_796_06, -0.980_066_6],
    [-0.289_629_5, 0.936_293_36, -0.198_669_33],
];

/// nibabel 5.4.2, `MGHHeader.get_affine()`, which computes in f32.
const AFFINE_NIBABEL: [[f64; 4]; 3] = [
    [-0.859_802_842, 0.064_581_886, -0.724_073_708, 17.125_747_681],
    [-0.265_968_174, -0.208_775_669, 2.340_733_528, -7.544_618_130],
    [0.0, -1.078_073_263, -0.496_673_316, 45.225_902_557],
];

fn near(image: &Image, want: [[f64; 4]; 3], tolerance: f64) {
    for (got, want) in rows(&image.affine()).iter().flatten().zip(want.iter().flatten()) {
        assert!((got - want).abs() < tolerance, "{got} {want}");
    }
}

#[test]
fn every_type_in_and_out_bit_for_bit() {
    let dir = Folder::new();
    let keep: Vec<u8> = (0..VOXELS).map(|i| u8::from(i % 2 == 0)).collect();
    for (kind, datatype) in KINDS {
        let mgh = Mgh::new(kind, 1);
        for (name, bytes) in [("x.mgh", mgh.bytes()), ("x.mgz", gz(&mgh.bytes())), ("x.nii", mgh.bytes())] {
            let image = only(&dir.put(name, &bytes));
            assert_eq!(image.shape(), Xyz(SHAPE));
            assert_eq!(values(&image), expected(datatype), "{kind}");
            assert_eq!(image.form_source(), FormSource::Mgh);
            assert!(image.warnings().is_empty());
            near(&image, AFFINE_NIBABEL, 4e-6);

            // Stripped: the header and what follows the voxels as they were.
            write_stripped(dir.path("s.mgh"), &image, &keep, 0.0).unwrap();
            let got = fs::read(dir.path("s.mgh")).unwrap();
            let size = image.datatype().size_of();
            let mut want = mgh.clone();
            for (voxel, &keep) in want.data.chunks_mut(size).zip(&keep) {
                if keep == 0 {
                    voxel.fill(0);
                }
            }
            assert!(got == want.bytes(), "{kind}");
            // A mask and floats: another type, all else the same.
            write_mask(dir.path("m.mgz"), &image, &keep).unwrap();
            let mask = Mgh { kind: 0, data: keep.clone(), ..mgh.clone() };
            assert!(inflated(&dir.path("m.mgz")) == mask.bytes());
            let floats: Vec<f32> = (0..VOXELS).map(|i| i as f32 / 7.0).collect();
            write_like(dir.path("f.mgh"), &image, &floats).unwrap();
            let body = floats.iter().flat_map(|f| f.to_be_bytes()).collect();
            let field = Mgh { kind: 3, data: body, ..mgh.clone() };
            assert!(fs::read(dir.path("f.mgh")).unwrap() == field.bytes());
        }
    }
}

pub fn inflated(path: &std::path::Path) -> Vec<u8> {
    let mut out = vec![];
    let file = fs::read(path).unwrap();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&file[..]), &mut out).unwrap();
    out
}

#[test]
fn over_to_nifti_and_back_keeps_values_and_place() {
    let dir = Folder::new();
    let all = vec![1; VOXELS];
    for (kind, datatype) in KINDS {
        let image = only(&dir.put("x.mgz", &gz(&Mgh::new(kind, 1).bytes())));
        write_stripped(dir.path("x.nii.gz"), &image, &all, 0.0).unwrap();
        let nifti = only(&dir.path("x.nii.gz"));
        assert_eq!((values(&nifti), nifti.datatype()), (expected(datatype), image.datatype()));
        // Both forms say the same, or there would be a warning.
        assert!(nifti.warnings().is_empty(), "{:?}", nifti.warnings());
        assert_eq!(nifti.header().form_codes(), (1, 1));
        near(&nifti, rows(&image.affine()), 4e-6);
        write_stripped(dir.path("y.mgz"), &nifti, &all, 0.0).unwrap();
        let back = only(&dir.path("y.mgz"));
        assert_eq!(values(&back), expected(datatype));
        near(&back, rows(&image.affine()), 1e-5);
    }
    // Types that the format lacks: integers that fit stay integers, others and scaled ones become float32.
    for (datatype, bits) in REAL_TYPES {
        for scaling in [[1.0, 0.0], [2.5, -3.0]] {
            for big in [false, true] {
                let nii = Nii { scaling, ..Nii::with(datatype, bits, big) };
                let image = only(&dir.put("x.nii", &nii.bytes()));
                write_stripped(dir.path("y.mgh"), &image, &all, 0.0).unwrap();
                let back = only(&dir.path("y.mgh"));
                assert_eq!(values(&back), values(&image), "{datatype} {scaling:?}");
                let want = match (datatype, scaling[0] == 1.0) {
                    (2, true) => NiftiType::Uint8,
                    (4 | 256, true) => NiftiType::Int16,
                    (8 | 512, true) => NiftiType::Int32,
                    _ => NiftiType::Float32,
                };
                assert_eq!(back.datatype(), want);
                // A sheared matrix too: the format holds any three directions.
                near(&back, rows(&image.affine()), 1e-5);
            }
        }
    }
    // The value outside the mask is the one asked for, whatever the scaling was.
    let ct = Nii { scaling: [1.0, -1000.0], ..Nii::new() };
    let image = only(&dir.put("ct.nii", &ct.bytes()));
    write_stripped(dir.path("ct.mgz"), &image, &[0; VOXELS], -5.5).unwrap();
    assert_eq!(values(&only(&dir.path("ct.mgz"))), [-5.5; VOXELS]);
}

#[test]
fn series_and_new_grids() {
    let dir = Folder::new();
    let mgh = Mgh::new(4, 3);
    let path = dir.put("x.mgz", &gz(&mgh.bytes()));
    assert_eq!(read_info(&path).unwrap().frames, 3);
    let error = read(&path, FrameChoice::Only).unwrap_err();
    assert!(matches!(error.problem, Problem::FrameNeeded(3)));
    let image = read(&path, FrameChoice::All).unwrap();
    for frame in 0..3 {
        let one = read(&path, FrameChoice::One(frame)).unwrap();
        assert_eq!(one.frame_f32(0).unwrap(), image.frame_f32(frame).unwrap());
        assert_eq!(one.info().mgh, image.info().mgh);
        write_mask(dir.path("m.mgh"), &one, &[1; VOXELS]).unwrap();
        let mask = Mgh { dims: [7, 6, 5, 1], kind: 0, data: vec![1; VOXELS], ..mgh.clone() };
        assert!(fs::read(dir.path("m.mgh")).unwrap() == mask.bytes());
    }
    // Time between volumes crosses over: ms there, seconds here.
    write_stripped(dir.path("x.nii"), &image, &[1; VOXELS], 0.0).unwrap();
    let nifti = read(dir.path("x.nii"), FrameChoice::All).unwrap();
    assert_eq!(nifti.header().bytes()[92..96], 2.0_f32.to_le_bytes());
    write_stripped(dir.path("y.mgh"), &nifti, &[1; VOXELS], 0.0).unwrap();
    let back = read(dir.path("y.mgh"), FrameChoice::All).unwrap();
    assert_eq!(back.raw(), image.raw());
    assert_eq!(back.info().mgh.as_ref().unwrap().tail()[..4], 2000.0_f32.to_be_bytes());
    // A new grid from either format.
    let affine = image.affine() * glam::DMat4::from_scale(glam::DVec3::new(2.0, 3.0, 0.5));
    let data: Vec<f32> = (0..48).map(|i| i as f32).collect();
    for source in [&image, &nifti] {
        write_new(dir.path("n.mgz"), Xyz([4, 3, 2]), &affine, &data, source).unwrap();
        let new = read(dir.path("n.mgz"), FrameChoice::All).unwrap();
        assert_eq!((new.shape(), new.frames()), (Xyz([4, 3, 2]), 2));
        near(&new, rows(&affine), 1e-5);
        assert_eq!(new.frame_f32(1).unwrap().data, data[24..]);
    }
    write_new(dir.path("n.nii"), Xyz([4, 3, 2]), &affine, &data, &image).unwrap();
    near(&read(dir.path("n.nii"), FrameChoice::All).unwrap(), rows(&affine), 1e-5);
}

#[test]
fn oddities_and_damage() {
    let dir = Folder::new();
    // Not marked good: FreeSurfer's coronal default, with a word about it.
    let unknown = Mgh { good: 0, ..Mgh::new(0, 1) };
    let image = only(&dir.put("u.mgh", &unknown.bytes()));
    assert_eq!(image.warnings(), [Warning::NoOrientation]);
    near(&image, [[-1.0, 0.0, 0.0, 3.5], [0.0, 0.0, 1.0, -2.5], [0.0, -1.0, 0.0, 3.0]], 1e-12);
    // Nothing after the voxels.
    let bare = Mgh { tail: vec![], ..Mgh::new(0, 1) };
    write_mask(dir.path("m.mgh"), &only(&dir.put("b.mgh", &bare.bytes())), &[1; VOXELS]).unwrap();
    assert_eq!(fs::read(dir.path("m.mgh")).unwrap().len(), 284 + VOXELS);
    let whole = Mgh::new(4, 1);
    let refused =
        |mgh: &Mgh| read(dir.put("x.mgh", &mgh.bytes()), FrameChoice::Only).unwrap_err().to_string();
    let mut flat = whole.clone();
    flat.cosines[2] = flat.cosines[1];
    let mut nan = whole.clone();
    nan.centre[1] = f32::NAN;
    for (mgh, words) in [
        (Mgh { kind: 6, ..whole.clone() }, "unknown (MGH type 6)"),
        (Mgh { dims: [7, -6, 5, 1], ..whole.clone() }, "dimension 2 is -6"),
        (Mgh { dims: [7, 6, 5, 0], ..whole.clone() }, "dimension 4 is 0"),
        (Mgh { dims: [210, 1, 1, 1], ..whole.clone() }, "not a 3D image (210x1x1x1)"),
        (Mgh { dims: [i32::MAX; 4], ..whole.clone() }, "can be addressed"),
        (Mgh { dims: [9000, 9000, 9000, 1], ..whole.clone() }, "is truncated"),
        (flat, "unusable direction cosines"),
        (nan, "unusable direction cosines"),
    ] {
        let text = refused(&mgh);
        assert!(text.contains(words) && text.contains("; "), "{text}");
    }
    let bytes = whole.bytes();
    for n in [4, 100, 283, 284, 285, 284 + 2 * VOXELS - 1] {
        let text = read(dir.put("t.mgh", &bytes[..n]), FrameChoice::Only).unwrap_err().to_string();
        assert!(text.contains("too short") || text.contains("is truncated"), "{n}: {text}");
    }
}

#[test]
fn names() {
    for (name, is) in
        [("a.mgz", true), ("a.b.MGH", true), ("a.mgh.gz", true), ("a.nii", false), ("mgz", false)]
    {
        assert_eq!(is_mgh_name(name), is, "{name}");
    }
}
