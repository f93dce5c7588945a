//! Writing: headers bit for bit, voxels bit-equal, new grids, names and failures.

use std::fs;
use std::path::Path;

use crate::nii::*;
use glam::{DMat4, DVec3, DVec4};
use trephine::tensor::Xyz;
use trephine::volume::image::{
    NiftiType, check_output_name, read_info, write_like, write_mask, write_new, write_stripped,
};
use trephine::volume::{FormSource, Problem};

/// Bytes of a header that every output computes anew: datatype to bitpix, offset and scaling,
/// display range, magic.
fn recomputed(two: bool) -> Vec<std::ops::Range<usize>> {
    if two { vec![4..12, 12..16, 168..208] } else { vec![70..74, 108..120, 124..132, 344..348] }
}

fn assert_same_but(a: &[u8], b: &[u8], but: &[std::ops::Range<usize>], what: &str) {
    for (i, (x, y)) in a.iter().zip(b).enumerate() {
        assert!(x == y || but.iter().any(|r| r.contains(&i)), "{what}: byte {i}: {x} {y}");
    }
}

#[test]
fn geometry_and_the_rest_of_the_header_survive_bit_for_bit() {
    let dir = Folder::new();
    let mut cases = vec![];
    for srow in [
        OBLIQUE,
        [[-1.0, 0.0, 0.0, 90.5], [0.0, 1.0, 0.0, -126.0], [0.0, 0.0, 1.0, -72.0]],
        [[0.0, 0.0, -5.0, 11.0], [0.5, 0.0, 0.0, -7.0], [0.0, 0.5, 0.0, 3.3]],
        [[1.0, 0.4, 0.0, 0.1], [0.0, 1.0, 0.0, 0.2], [0.0, 0.0, 1.0, 0.3]],
    ] {
        for codes in [[0, 2], [1, 0], [1, 4], [0, 0]] {
            for qfac in [1.0, -1.0, 0.0] {
                let mut nii = Nii {
                    srow,
                    codes,
                    quatern: [0.1, -0.2, 0.3],
                    qoffset: [10.1, -20.2, 30.3],
                    scaling: [2.5, -3.0],
                    ..Nii::new()
                };
                nii.pixdim[0] = qfac;
                nii.extensions = extension(6, b"kept");
                cases.push(nii);
            }
        }
    }
    let keep: Vec<u8> = (0..VOXELS).map(|i| u8::from(i % 3 == 0)).collect();
    let out = dir.path("out.nii");
    for case in cases {
        for (two, big) in [(false, false), (false, true), (true, false), (true, true)] {
            let mut nii = case.clone();
            (nii.two, nii.big) = (two, big);
            nii.data = value_bytes(4, big, 1);
            if big {
                nii.extensions.clear();
            }
            let head = nii.head();
            let image = only(&dir.put("in.nii", &nii.bytes()));
            let field: Vec<f32> = (0..VOXELS).map(|i| i as f32 / 7.0).collect();

            write_mask(&out, &image, &keep).unwrap();
            let written = fs::read(&out).unwrap();
            assert_same_but(&head, &written, &recomputed(two), "mask");
            assert_eq!(written[head.len()..], keep);
            let mask = only(&out);
            assert_eq!(mask.datatype(), NiftiType::Uint8);
            assert_eq!(mask.header().stored_scaling(), (1.0, 0.0));
            assert_eq!(rows(&mask.affine()), rows(&image.affine()));

            write_like(&out, &image, &field).unwrap();
            let written = fs::read(&out).unwrap();
            assert_same_but(&head, &written, &recomputed(two), "field");
            let back = only(&out);
            assert_eq!(values(&back), field);
            assert_eq!(back.header().stored_scaling(), (1.0, 0.0));

            write_stripped(&out, &image, &keep, 0.0).unwrap();
            let written = fs::read(&out).unwrap();
            // Datatype and scaling are the input's too: only the display range is new.
            let but = if two { 192..208 } else { 124..132 };
            assert_same_but(&head, &written, &[but], "stripped");
            // 0 = 2.5 * 1.2 - 3 is not representable; the nearest stored value is 1.
            let fill = if big { 1_i16.to_be_bytes() } else { 1_i16.to_le_bytes() };
            for (i, (got, was)) in written[head.len()..].chunks(2).zip(nii.data.chunks(2)).enumerate() {
                assert_eq!(got, if keep[i] == 1 { was } else { &fill }, "voxel {i}");
            }
        }
    }
}

#[test]
fn display_range_is_that_of_the_output() {
    let dir = Folder::new();
    let image = only(&dir.put("x.nii", &Nii::new().bytes()));
    let out = dir.path("o.nii");
    let range = |path: &Path| {
        let b = fs::read(path).unwrap();
        let at = |i: usize| f32::from_le_bytes([b[i], b[i + 1], b[i + 2], b[i + 3]]);
        (at(128), at(124))
    };
    write_mask(&out, &image, &[1; VOXELS]).unwrap();
    assert_eq!(range(&out), (1.0, 1.0));
    let mut field = vec![-1.5; VOXELS];
    field[3] = f32::NAN;
    field[4] = 8.0;
    write_like(&out, &image, &field).unwrap();
    assert_eq!(range(&out), (-1.5, 8.0));
    let keep: Vec<u8> = (0..VOXELS).map(|i| u8::from(i < 2)).collect();
    write_stripped(&out, &image, &keep, 0.0).unwrap();
    assert_eq!(range(&out), (-300.0, 0.0));
}

#[test]
fn stripped_images_of_every_type_are_equal_inside_and_filled_outside() {
    let dir = Folder::new();
    let keep: Vec<u8> = (0..VOXELS).map(|i| u8::from(i % 2 == 0)).collect();
    for (datatype, bits) in REAL_TYPES {
        for big in [false, true] {
            let image = only(&dir.put("x.nii", &Nii::with(datatype, bits, big).bytes()));
            for (name, fill) in [("o.nii", 0.0), ("o.nii.gz", 5.0)] {
                write_stripped(dir.path(name), &image, &keep, fill).unwrap();
                let back = only(&dir.path(name));
                assert_eq!(back.datatype(), image.datatype());
                let size = bits as usize / 8;
                for (i, &keep) in keep.iter().enumerate() {
                    let at = i * size..(i + 1) * size;
                    if keep == 1 {
                        assert_eq!(back.raw()[at.clone()], image.raw()[at]);
                    } else {
                        assert_eq!(values(&back)[i], fill, "{datatype}");
                    }
                }
            }
        }
    }
}

#[test]
fn new_grids_carry_both_forms_or_the_sform_alone() {
    let dir = Folder::new();
    let shape = [4, 3, 2];
    let data: Vec<f32> = (0..24).map(|i| i as f32).collect();
    let plain = DMat4::from_cols(
        DVec4::new(0.0, 2.0, 0.0, 0.0),
        DVec4::new(0.0, 0.0, 3.0, 0.0),
        DVec4::new(-1.5, 0.0, 0.0, 0.0),
        DVec4::new(5.0, 6.0, 7.0, 1.0),
    );
    let turned = plain * DMat4::from_axis_angle(DVec3::new(1.0, 2.0, 3.0).normalize(), 0.4);
    let mut sheared = plain;
    sheared.y_axis += 0.3 * sheared.x_axis;
    let oblique = DMat4::from_axis_angle(DVec3::new(1.0, 2.0, 3.0).normalize(), 0.4) * plain;
    for two in [false, true] {
        for (codes, want_codes) in [([0, 4], (4, 4)), ([1, 0], (1, 1)), ([1, 2], (2, 1)), ([0, 0], (1, 1))] {
            let nii = Nii { two, codes, extensions: extension(6, b"kept"), ..Nii::new() };
            let source = only(&dir.put("s.nii", &nii.bytes()));
            for (affine, shear) in [(plain, false), (oblique, false), (sheared, true), (turned, true)] {
                let out = dir.path("n.nii.gz");
                write_new(&out, Xyz(shape), &affine, &data, &source).unwrap();
                let back = only(&out);
                assert_eq!(back.shape(), Xyz(shape));
                assert_eq!(values(&back), data);
                // No word of disagreement: the qform says the same, or nothing.
                assert!(back.warnings().is_empty(), "{:?}", back.warnings());
                let (s, q) = back.header().form_codes();
                assert_eq!(s, want_codes.0);
                assert_eq!(q, if shear { 0 } else { want_codes.1 });
                let gap = (back.affine() - affine).to_cols_array();
                assert!(gap.iter().all(|g| g.abs() < 1e-6));
                assert_eq!(back.header().extensions(), source.header().extensions());
                // The qform alone gives the same place.
                if !shear {
                    let mut bytes = vec![];
                    let file = fs::read(&out).unwrap();
                    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&file[..]), &mut bytes)
                        .unwrap();
                    let code = if two { 348..352 } else { 254..256 };
                    bytes[code].fill(0);
                    let by_qform = only(&dir.put("q.nii", &bytes));
                    assert_eq!(by_qform.form_source(), FormSource::Qform);
                    let gap = (by_qform.affine() - affine).to_cols_array();
                    assert!(gap.iter().all(|g| g.abs() < 3e-6), "{gap:?}");
                }
            }
        }
    }
    let source = only(&dir.path("s.nii"));
    // Several volumes, and arrays that do not fit.
    let twice = [data.clone(), data.clone()].concat();
    write_new(dir.path("n.nii"), Xyz(shape), &plain, &twice, &source).unwrap();
    assert_eq!(read_info(dir.path("n.nii")).unwrap().frames, 2);
    assert!(write_new(dir.path("n.nii"), Xyz(shape), &plain, &data[1..], &source).is_err());
    assert!(write_new(dir.path("n.nii"), Xyz(shape), &plain, &[], &source).is_err());
    assert!(write_new(dir.path("n.nii"), Xyz([0, 3, 2]), &plain, &data, &source).is_err());
}

#[test]
fn names_are_kept_exactly_and_failures_leave_nothing() {
    let dir = Folder::new();
    let image = only(&dir.put("in.nii", &Nii::new().bytes()));
    let mask = [1; VOXELS];
    write_mask(dir.path("sub-01_desc.v1.nii"), &image, &mask).unwrap();
    write_mask(dir.path("b.v2.NII.GZ"), &image, &mask).unwrap();
    assert_eq!(dir.names(), ["b.v2.NII.GZ", "in.nii", "sub-01_desc.v1.nii"]);
    assert!(fs::read(dir.path("b.v2.NII.GZ")).unwrap().starts_with(&[0x1f, 0x8b]));
    // Over an existing file.
    write_mask(dir.path("in.nii"), &image, &mask).unwrap();
    assert_eq!(only(&dir.path("in.nii")).datatype(), NiftiType::Uint8);
    let before = dir.names();

    for name in ["x.img", "x.hdr", "x", "x.gz", "nii"] {
        let error = write_mask(dir.path(name), &image, &mask).unwrap_err();
        assert!(matches!(error.problem, Problem::OutputName), "{name}: {error}");
        assert!(check_output_name(dir.path(name)).is_err());
    }
    let error = write_mask(dir.path("no/such/x.nii"), &image, &mask).unwrap_err();
    assert!(matches!(error.problem, Problem::NoFolder(_)), "{error}");
    fs::create_dir(dir.path("d.nii")).unwrap();
    let error = write_mask(dir.path("d.nii"), &image, &mask).unwrap_err();
    assert!(matches!(error.problem, Problem::Folder), "{error}");
    let error = write_mask(dir.path("in.nii/x.nii"), &image, &mask).unwrap_err();
    assert!(matches!(error.problem, Problem::NoFolder(_)), "{error}");
    fs::remove_dir(dir.path("d.nii")).unwrap();
    assert_eq!(dir.names(), before);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error_and_devices_stay_devices() {
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};
    let dir = Folder::new();
    let image = only(&dir.put("in.nii", &Nii::new().bytes()));
    let error = write_mask("/dev/full", &image, &[1; VOXELS]).unwrap_err();
    assert!(error.to_string().starts_with("/dev/full: cannot be written ("), "{error}");
    write_mask("/dev/null", &image, &[1; VOXELS]).unwrap();
    assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    // Readable by others as the umask has it, unlike temporary files.
    fs::File::create(dir.path("plain")).unwrap();
    write_mask(dir.path("m.nii"), &image, &[1; VOXELS]).unwrap();
    let mode = |name: &str| fs::metadata(dir.path(name)).unwrap().permissions().mode();
    assert_eq!(mode("m.nii"), mode("plain"));
}

/// ```sh
/// cargo test --release --test volume -- --ignored --nocapture large_mask
/// ```
#[test]
#[ignore = "prints a time instead of checking it"]
fn the_time_that_a_large_mask_takes() {
    let dir = Folder::new();
    let n = 256;
    let source =
        Nii { dim: vec![n; 3], datatype: 2, bits: 8, data: vec![1; (n * n * n) as usize], ..Nii::new() };
    let image = only(&dir.put("s.nii", &source.bytes()));
    // A brain's share of a head's image, with a border that wavers.
    let mask: Vec<u8> = (0..n * n * n)
        .map(|i| {
            let at = [i % n, i / n % n, i / (n * n)].map(|c| (c - n / 2) as f64 / (n / 2) as f64);
            let waver = 0.03 * ((40.0 * at[0]).sin() * (37.0 * at[1]).sin() * (43.0 * at[2]).sin());
            u8::from(at.iter().map(|c| c * c).sum::<f64>().sqrt() < 0.6 + waver)
        })
        .collect();
    let out = dir.path("m.nii.gz");
    let seconds: Vec<f64> = (0..7)
        .map(|_| {
            let begun = std::time::Instant::now();
            write_mask(&out, &image, &mask).unwrap();
            begun.elapsed().as_secs_f64()
        })
        .collect();
    let best = seconds.iter().copied().fold(f64::INFINITY, f64::min);
    let bytes = fs::metadata(&out).unwrap().len();
    println!("{} voxels to {bytes} bytes: best {best:.3} s of {seconds:.3?}", mask.len());
}
