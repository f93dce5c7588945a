//! Random images of every kind, written and read back: equal to the last bit.
//!
//! Pure Rust here; `tools/nibabel_round_trip.py` drives [`exchange`] to do the same with nibabel.

use std::fs;
use std::path::Path;

use crate::nii::*;
use glam::{DMat4, DVec3};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use trephine::tensor::Xyz;
use trephine::volume::image::{FrameChoice, Image, read, write_like, write_mask, write_new, write_stripped};

fn random_bytes(rng: &mut ChaCha8Rng, n: usize) -> Vec<u8> {
    (0..n).map(|_| rng.random()).collect()
}

/// Any header that is legal, and voxels of any bits (NaN and infinities among them).
fn random(rng: &mut ChaCha8Rng) -> Nii {
    let (datatype, bits) = REAL_TYPES[rng.random_range(0..REAL_TYPES.len())];
    let mut dim: Vec<i64> = (0..3).map(|_| rng.random_range(2..9)).collect();
    if rng.random_bool(0.3) {
        dim.push(rng.random_range(1..4));
    }
    let voxels: i64 = dim.iter().product();
    let mut real = |low: f64, high: f64| f64::from(rng.random_range(low..high) as f32);
    let mut nii = Nii {
        pixdim: std::array::from_fn(|_| real(0.3, 4.0)),
        quatern: std::array::from_fn(|_| real(-0.5, 0.5)),
        qoffset: std::array::from_fn(|_| real(-200.0, 200.0)),
        srow: std::array::from_fn(|_| std::array::from_fn(|_| real(-3.0, 3.0))),
        scaling: [real(-5.0, 5.0), real(-5.0, 5.0)],
        datatype,
        bits,
        dim,
        ..Nii::new()
    };
    if rng.random_bool(0.5) {
        nii.scaling = [[f64::NAN; 2], [0.0, 7.0], [1.0, 0.0]][rng.random_range(0..3)];
    }
    nii.pixdim[0] = [1.0, -1.0, 0.0][rng.random_range(0..3)];
    nii.codes = [rng.random_range(0..5), rng.random_range(0..5)];
    (nii.two, nii.big, nii.pair) = (rng.random(), rng.random(), rng.random_bool(0.2));
    // Their sizes are little-endian in `extension`.
    if !nii.big && rng.random_bool(0.4) {
        for _ in 0..rng.random_range(1..4) {
            let length = rng.random_range(0..100);
            let data = random_bytes(rng, length);
            nii.extensions.extend(extension(rng.random_range(0..50), &data));
        }
    }
    nii.data = random_bytes(rng, voxels as usize * usize::from(bits.unsigned_abs()) / 8);
    nii
}

fn put(dir: &Folder, nii: &Nii, packed: bool) -> std::path::PathBuf {
    let pack = |bytes: Vec<u8>| if packed { gz(&bytes) } else { bytes };
    if nii.pair {
        dir.put("x.img", &pack(nii.data.clone()));
        dir.put("x.hdr", &pack(nii.head()))
    } else {
        dir.put("x.nii", &pack(nii.bytes()))
    }
}

/// Equal, where NaN equals NaN.
fn same(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a == b || (a.is_nan() && b.is_nan()))
}

fn all_values(image: &Image) -> Vec<f32> {
    (0..image.frames()).flat_map(|frame| image.frame_f32(frame).unwrap().data).collect()
}

#[test]
fn random_images_come_back_equal() {
    let dir = Folder::new();
    let mut rng = ChaCha8Rng::seed_from_u64(20_261_125);
    let (mut read_ok, mut rounds) = (0, 0);
    while read_ok < 80 {
        rounds += 1;
        let nii = random(&mut rng);
        // A random matrix may be close to singular; then it is refused, and so it is no case.
        let Ok(image) = read(put(&dir, &nii, rng.random()), FrameChoice::All) else { continue };
        read_ok += 1;
        assert_eq!(image.raw(), nii.data);
        let voxels = image.voxels() * image.frames();
        let keep = vec![1; image.voxels()];
        let labels: Vec<u8> = (0..voxels).map(|_| rng.random()).collect();
        let floats: Vec<f32> = (0..voxels).map(|_| f32::from_bits(rng.random())).collect();
        for name in ["y.nii", "y.nii.gz"] {
            let out = dir.path(name);
            let again = || read(&out, FrameChoice::All).unwrap();
            write_stripped(&out, &image, &keep, 0.0).unwrap();
            let back = again();
            assert_eq!(back.raw(), image.raw());
            assert_eq!(rows(&back.affine()), rows(&image.affine()));
            let (got, want) = (back.header(), image.header());
            assert_eq!(got.dim()[1..], want.dim()[1..]);
            assert_eq!(got.form_codes(), want.form_codes());
            assert_eq!(got.stored_scaling().0.to_bits(), want.stored_scaling().0.to_bits());
            assert_eq!(got.stored_scaling().1.to_bits(), want.stored_scaling().1.to_bits());
            assert_eq!(got.extensions(), want.extensions());
            write_mask(&out, &image, &labels).unwrap();
            assert_eq!(again().raw(), labels);
            write_like(&out, &image, &floats).unwrap();
            assert!(same(&all_values(&again()), &floats));
        }
        // Scaled by itself, the format without scaling says the same.
        write_stripped(dir.path("y.mgz"), &image, &keep, 0.0).unwrap();
        let back = read(dir.path("y.mgz"), FrameChoice::All).unwrap();
        assert!(same(&all_values(&back), &all_values(&image)), "{:?}", image.datatype());
    }
    assert!(rounds < 120, "{rounds} rounds for {read_ok} images");
}

/// Reads every image below `$TREPHINE_EXCHANGE/in` and writes to `out`, under the same name: the values and the
/// matrix as read (`.values`, f32; `.affine`, f64, row by row), and the image again by every writer.
#[test]
#[ignore = "driven by tools/nibabel_round_trip.py"]
fn exchange() {
    let folder = std::env::var_os("TREPHINE_EXCHANGE").expect("TREPHINE_EXCHANGE names the folder");
    let folder = Path::new(&folder);
    let mut names: Vec<String> = fs::read_dir(folder.join("in"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.contains(".img"))
        .collect();
    names.sort();
    for name in names {
        let image = read(folder.join("in").join(&name), FrameChoice::All).unwrap();
        let out = |end: &str| folder.join("out").join(format!("{name}{end}"));
        let values = all_values(&image);
        fs::write(out(".values"), bytemuck::cast_slice::<f32, u8>(&values)).unwrap();
        let affine: Vec<f64> = rows(&image.affine()).into_iter().flatten().collect();
        fs::write(out(".affine"), bytemuck::cast_slice::<f64, u8>(&affine)).unwrap();
        let keep = vec![1; image.voxels()];
        let labels: Vec<u8> = (0..values.len()).map(|i| (i % 251) as u8).collect();
        // Another grid: the first voxel twice as large, x and y exchanged.
        let turned = DMat4::from_cols(
            glam::DVec4::Y,
            glam::DVec4::X,
            glam::DVec4::Z,
            DVec3::new(1.0, 2.0, 3.0).extend(1.0),
        );
        let grid = image.affine() * turned;
        for end in [".nii", ".nii.gz", ".mgz", ".mgh"] {
            write_stripped(out(&format!(".kept{end}")), &image, &keep, 0.0).unwrap();
            write_mask(out(&format!(".mask{end}")), &image, &labels).unwrap();
            write_like(out(&format!(".like{end}")), &image, &values).unwrap();
            let Xyz([nx, ny, nz]) = image.shape();
            write_new(out(&format!(".grid{end}")), Xyz([ny, nx, nz]), &grid, &values, &image).unwrap();
        }
    }
}
