//! Reading: every container, datatype and form; refusals; damage.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::Ordering;

use flate2::Compression;
use flate2::write::GzEncoder;
use glam::{DMat4, DVec3};

use crate::mgh::Mgh;
use crate::nii::*;
use crate::{LARGEST, SANE, peak_of};
use trephine::tensor::Xyz;
use trephine::volume::image::{
    FrameChoice, Image, Version, read, read_info, write_like, write_mask, write_new, write_stripped,
};
use trephine::volume::orientation::AxisMap;
use trephine::volume::{FormSource, Problem, VolumeError, Warning};

/// The reason why a file is refused, less its name; checked to have both parts.
fn refusal(path: &Path) -> String {
    let error: VolumeError = read(path, FrameChoice::Only).unwrap_err();
    let text = error.to_string();
    let rest = text
        .strip_prefix(&format!("{}: ", path.display()))
        .unwrap_or_else(|| panic!("names its file: {text}"));
    assert!(rest.contains("; "), "says what to do: {text}");
    rest.to_owned()
}

#[test]
fn every_real_datatype_in_both_orders_and_versions() {
    let dir = Folder::new();
    for (datatype, bits) in REAL_TYPES {
        for big in [false, true] {
            for two in [false, true] {
                let mut nii = Nii::with(datatype, bits, big);
                nii.two = two;
                let image = only(&dir.put("x.nii", &nii.bytes()));
                assert_eq!(image.shape(), Xyz(SHAPE));
                assert_eq!(values(&image), expected(datatype), "{datatype} {big} {two}");
                let version = if two { Version::Two } else { Version::One };
                assert_eq!(image.header().version(), version);
            }
        }
    }
}

#[test]
fn other_datatypes_are_refused_by_name() {
    let dir = Folder::new();
    for (datatype, word) in [
        (32, "complex"),
        (1792, "complex"),
        (128, "colour"),
        (2304, "colour"),
        (1536, "128-bit"),
        (0, "unknown (datatype 0)"),
        (999, "unknown"),
    ] {
        let mut nii = Nii::new();
        nii.datatype = datatype;
        let text = refusal(&dir.put("x.nii", &nii.bytes()));
        assert!(text.contains(word), "{text}");
    }
}

#[test]
fn scaling_rules() {
    let dir = Folder::new();
    for two in [false, true] {
        for (scaling, slope, intercept) in [
            ([2.5, -3.0], 2.5, -3.0),
            ([f64::NAN, f64::NAN], 1.0, 0.0),
            ([0.0, 5.0], 1.0, 0.0),
            ([f64::INFINITY, 5.0], 1.0, 0.0),
            ([1.0, 0.0], 1.0, 0.0),
            ([-2.0, 7.0], -2.0, 7.0),
        ] {
            let nii = Nii { scaling, two, ..Nii::new() };
            let image = only(&dir.put("x.nii", &nii.bytes()));
            let want: Vec<f32> =
                (0..VOXELS).map(|i| (value(4, i) as f64 * slope + intercept) as f32).collect();
            assert_eq!(values(&image), want, "{scaling:?}");
        }
        let nii = Nii { scaling: [2.0, f64::NAN], two, ..Nii::new() };
        let text = refusal(&dir.put("x.nii", &nii.bytes()));
        assert!(text.contains("intercept of NaN"), "{text}");
    }
}

#[test]
fn gzip_by_content_in_one_member_or_several() {
    let dir = Folder::new();
    let bytes = Nii::new().bytes();
    let packed = gz(&bytes);
    let several = [gz(&bytes[..100]), gz(&bytes[100..400]), gz(&[]), gz(&bytes[400..])].concat();
    let padded = [&packed[..], &[0; 512]].concat();
    for (name, content) in [
        ("plain.nii", &bytes),
        ("packed.nii.gz", &packed),
        ("packed.NII.GZ", &packed),
        ("gzip_without_the_name.nii", &packed),
        ("name_without_gzip.nii.gz", &bytes),
        ("several.nii.gz", &several),
        ("padded.nii.gz", &padded),
        ("no_extension", &bytes),
    ] {
        assert_eq!(values(&only(&dir.put(name, content))), expected(4), "{name}");
    }
}

#[test]
fn pairs_by_either_file() {
    let dir = Folder::new();
    let ext = extension(6, b"hello pair");
    for two in [false, true] {
        for packed in [false, true] {
            let nii = Nii { pair: true, two, extensions: ext.clone(), ..Nii::new() };
            let pack = |b: Vec<u8>| if packed { gz(&b) } else { b };
            let suffix = if packed { ".gz" } else { "" };
            let hdr = dir.put(&format!("p{two}.hdr{suffix}"), &pack(nii.head()));
            let img = dir.put(&format!("p{two}.img{suffix}"), &pack(nii.data.clone()));
            for path in [hdr, img] {
                let image = only(&path);
                assert_eq!(values(&image), expected(4), "{}", path.display());
                assert!(image.header().is_pair());
                // Out comes a single file, extension and all.
                let out = dir.path("out.nii");
                write_like(&out, &image, &values(&image)).unwrap();
                let back = only(&out);
                assert!(!back.header().is_pair());
                assert_eq!(values(&back), expected(4));
                assert_eq!(back.header().extensions()[4..], ext);
            }
        }
    }
    // An offset into the voxel file.
    let mut nii = Nii { pair: true, offset: Some(16.0), ..Nii::new() };
    nii.data.splice(0..0, [0; 16]);
    let hdr = dir.put("o.hdr", &nii.head());
    dir.put("o.img", &nii.data);
    assert_eq!(values(&only(&hdr)), expected(4));

    let lone = dir.put("lone.hdr", &nii.head());
    assert!(refusal(&lone).contains(".img file is missing"));
    let lone = dir.put("alone.img", &nii.data);
    assert!(refusal(&lone).contains(".hdr file is missing"));
}

#[test]
fn what_is_not_nifti_is_named() {
    let dir = Folder::new();
    let mut analyze = Nii::new().bytes();
    analyze[344..348].fill(0);
    let mut dicom = vec![0; 900];
    dicom[128..132].copy_from_slice(b"DICM");
    for (name, content, word) in [
        ("a.hdr", analyze, "Analyze 7.5"),
        ("d.nii", dicom, "DICOM"),
        ("n.nii", vec![b'x'; 700], "neither a NIfTI nor an MGH file"),
        ("s.nii", vec![0; 100], "only 100 bytes"),
        ("e.nii", vec![], "only 0 bytes"),
    ] {
        let text = refusal(&dir.put(name, &content));
        assert!(text.contains(word), "{text}");
    }
    assert!(refusal(&dir.path("none.nii")).starts_with("does not exist; "));
    assert!(refusal(Folder::new().0.path()).starts_with("is a folder; "));
}

#[test]
fn frames_of_4d() {
    let dir = Folder::new();
    let frames = 3;
    let nii = Nii { dim: vec![7, 6, 5, frames as i64], data: value_bytes(4, false, frames), ..Nii::new() };
    for (name, content) in [("x.nii", nii.bytes()), ("x.nii.gz", gz(&nii.bytes()))] {
        let path = dir.put(name, &content);
        assert_eq!(read_info(&path).unwrap().frames, frames);
        let text = refusal(&path);
        assert!(text.contains("3 volumes") && text.contains("--volume N (0 to 2)"), "{text}");
        assert!(text.contains("--all"), "{text}");
        let all = read(&path, FrameChoice::All).unwrap();
        assert_eq!(all.frames(), frames);
        for t in 0..frames {
            let want: Vec<f32> = (0..VOXELS).map(|i| value(4, i + t * VOXELS) as f32).collect();
            assert_eq!(all.frame_f32(t).unwrap().data, want);
            let one = read(&path, FrameChoice::One(t)).unwrap();
            assert_eq!(values(&one), want);
        }
        assert!(all.frame_f32(frames).is_err());
        let error = read(&path, FrameChoice::One(frames)).unwrap_err();
        assert!(matches!(error.problem, Problem::NoSuchFrame { wanted: 3, frames: 3 }));
    }
    // Written from all volumes: 4D; from one: 3D.
    let all = read(dir.path("x.nii"), FrameChoice::All).unwrap();
    let mut keep = vec![1; VOXELS * frames];
    keep[VOXELS] = 0;
    write_stripped(dir.path("s.nii"), &all, &keep, 0.0).unwrap();
    let back = read(dir.path("s.nii"), FrameChoice::All).unwrap();
    assert_eq!(back.header().dim(), all.header().dim());
    assert_eq!(back.raw()[..2 * VOXELS], all.raw()[..2 * VOXELS]);
    assert_eq!(back.raw()[2 * VOXELS..2 * VOXELS + 2], [0, 0]);
    assert_eq!(back.raw()[2 * VOXELS + 2..], all.raw()[2 * VOXELS + 2..]);
    // One mask for all the volumes.
    write_stripped(dir.path("s.nii"), &all, &keep[VOXELS..2 * VOXELS], 0.0).unwrap();
    let back = read(dir.path("s.nii"), FrameChoice::All).unwrap();
    for t in 0..frames {
        let (got, want) = (back.frame_f32(t).unwrap(), all.frame_f32(t).unwrap());
        assert_eq!(got.data[0], 0.0);
        assert_eq!(got.data[1..], want.data[1..]);
    }
    write_mask(dir.path("m.nii"), &all, &keep).unwrap();
    assert_eq!(read_info(dir.path("m.nii")).unwrap().frames, frames);
    write_mask(dir.path("m.nii"), &all, &keep[..VOXELS]).unwrap();
    let back = only(&dir.path("m.nii"));
    assert_eq!(back.header().dim(), [3, 7, 6, 5, 1, 1, 1, 1]);
    assert!(write_mask(dir.path("m.nii"), &all, &keep[..VOXELS + 1]).is_err());
}

#[test]
fn trailing_dimensions_of_one_are_squeezed_and_slices_refused() {
    let dir = Folder::new();
    for dim in [vec![7, 6, 5, 1], vec![7, 6, 5, 1, 1, 1, 1]] {
        let nii = Nii { dim, ..Nii::new() };
        let image = only(&dir.put("x.nii", &nii.bytes()));
        assert_eq!(values(&image), expected(4));
    }
    // Volumes along the fifth dimension, as vector images have them.
    let nii = Nii { dim: vec![7, 6, 5, 1, 3], data: value_bytes(4, false, 3), ..Nii::new() };
    assert_eq!(read_info(dir.put("x.nii", &nii.bytes())).unwrap().frames, 3);
    for dim in [vec![42, 5], vec![210], vec![42, 5, 1], vec![42, 1, 5], vec![42, 5, 1, 2]] {
        let nii = Nii { dim, ..Nii::new() };
        let text = refusal(&dir.put("x.nii", &nii.bytes()));
        assert!(text.contains("not a 3D image"), "{text}");
    }
}

#[test]
fn absurd_dimensions_are_refused_before_memory_is_taken() {
    let dir = Folder::new();
    let longest = i64::from(i16::MAX);
    for (dim, word) in [
        (vec![7, 0, 5], "dimension 2 is 0"),
        (vec![7, 6, -5], "dimension 3 is -5"),
        (vec![7, 6, 5, 0], "dimension 4 is 0"),
        (vec![longest; 3], "truncated"),
        (vec![longest; 7], "can be addressed"),
        (vec![7, 6, 6], "truncated (420 of 504"),
    ] {
        for pack in [false, true] {
            let nii = Nii { dim: dim.clone(), ..Nii::new() };
            let bytes = if pack { gz(&nii.bytes()) } else { nii.bytes() };
            let text = refusal(&dir.put("x.nii", &bytes));
            assert!(text.contains(word), "{text}");
        }
    }
    let huge = Nii { dim: vec![1 << 40, 1 << 40, 2], ..Nii::new().version_two() };
    assert!(refusal(&dir.put("x.nii", &huge.bytes())).contains("can be addressed"));
    let mut rank = Nii::new().version_two().bytes();
    rank[16] = 200;
    assert!(refusal(&dir.put("x.nii", &rank)).contains("200 dimensions"));
    for offset in [100.0, -16.0, f64::NAN, 1e30] {
        let nii = Nii { offset: Some(offset), ..Nii::new() };
        let text = refusal(&dir.put("x.nii", &nii.bytes()));
        assert!(text.contains("voxel offset"), "{text}");
    }
    // Long files (of nothing, on disk and packed) that claim to be longer still: what is there
    // is not read in before the claim is seen to be false.
    let claims = Nii { dim: vec![1000, 1000, 1000], ..Nii::new() };
    let path = dir.put("x.nii", &claims.bytes());
    let file = fs::File::options().append(true).open(&path).unwrap();
    file.set_len(100 << 20).unwrap();
    assert!(refusal(&path).contains("truncated (104857248 of 2000000000"));
    let start = gz(&claims.bytes());
    let zeros = gz(&[0; 1 << 20]);
    let packed = [&start[..], &zeros.repeat(100)].concat();
    let text = refusal(&dir.put("x.nii.gz", &packed));
    assert!(text.contains("a gzip file of its size"), "{text}");
    let far = Nii { offset: Some(1e9), ..Nii::new() };
    for bytes in [far.bytes(), gz(&far.bytes())] {
        assert!(refusal(&dir.put("x.nii", &bytes)).contains("truncated"));
    }
    // Offset 0 stands for the first byte after the header; a gap before the voxels is legal.
    let zero = Nii { offset: Some(0.0), ..Nii::new() };
    assert_eq!(values(&only(&dir.put("x.nii", &zero.bytes()))), expected(4));
    let mut gap = Nii { offset: Some(1352.0), ..Nii::new() };
    gap.data.splice(0..0, vec![9; 1000]);
    for bytes in [gap.bytes(), gz(&gap.bytes())] {
        assert_eq!(values(&only(&dir.put("x.nii", &bytes))), expected(4));
    }
    assert!(LARGEST.load(Ordering::Relaxed) < SANE);
}

/// Long extensions and long ends of MGH files, packed to a thousandth: what is read of them, and the room
/// that is left to grow, follows the size of the file too.
#[test]
fn what_surrounds_the_voxels_takes_no_more_than_the_file_can_hold() {
    let dir = Folder::new();
    let zeros = vec![0; (1 << 20) + 300];
    let nii = Nii { extensions: extension(6, &zeros), ..Nii::new() };
    let mut claim = nii.clone();
    claim.offset = Some(f64::from(60 << 20));
    let mgh = Mgh { tail: zeros.clone(), ..Mgh::new(4, 1) };
    for (name, bytes, sound) in
        [("x.nii", nii.bytes(), true), ("x.nii", claim.bytes(), false), ("x.mgz", mgh.bytes(), true)]
    {
        let mut packed = GzEncoder::new(vec![], Compression::best());
        packed.write_all(&bytes).unwrap();
        let packed = packed.finish().unwrap();
        let path = dir.put(name, &packed);
        let (image, peak) = peak_of(|| read(&path, FrameChoice::Only));
        assert_eq!(image.is_ok(), sound, "{name}");
        // The buffers of reading, whatever the file, and deflate's 1032 to 1.
        let most = (512 << 10) + 1100 * packed.len();
        assert!(peak.cast_unsigned() < most, "{name}: {peak} bytes for a file of {}", packed.len());
    }
}

#[test]
fn reading_and_writing_take_one_copy() {
    let dir = Folder::new();
    let dim = [128, 128, 128];
    let voxels = dim.iter().product::<i64>() as usize;
    let mut state = 3_u32;
    // What hardly packs, and what packs to a thousandth.
    let noise: Vec<u8> = (0..2 * voxels).map(|_| lcg(&mut state) & 31).collect();
    for data in [noise, vec![0; 2 * voxels]] {
        let nii = Nii { dim: dim.to_vec(), data: data.clone(), ..Nii::new() };
        let mgh = Mgh { dims: [128, 128, 128, 1], data: data.clone(), ..Mgh::new(4, 1) };
        for (name, bytes) in [
            ("x.nii", nii.bytes()),
            ("x.nii.gz", gz(&nii.bytes())),
            ("x.mgh", mgh.bytes()),
            ("x.mgz", gz(&mgh.bytes())),
        ] {
            let path = dir.put(name, &bytes);
            let (image, peak) = peak_of(|| only(&path));
            assert!(image.raw() == data);
            let most = data.len() as isize + (512 << 10);
            assert!(peak < most, "{name}: {peak} bytes for {} of voxels", data.len());
            // Uncompressed, a piece at a time; what is packed by other threads is not seen here.
            let keep = vec![1; voxels];
            for out in ["y.nii", "y.mgh"] {
                let (_, peak) = peak_of(|| write_stripped(dir.path(out), &image, &keep, 0.0).unwrap());
                assert!(peak < 2 << 20, "{name} to {out}: {peak} bytes to write");
            }
        }
    }
}

#[test]
fn damage_is_told_from_truncation() {
    let dir = Folder::new();
    // Noise, so that the compressed stream is long.
    let mut nii = Nii::new();
    let mut state = 1_u32;
    nii.data.iter_mut().for_each(|b| *b = lcg(&mut state));
    let bytes = nii.bytes();
    let packed = gz(&bytes);
    for n in [348, 352, 353, 500, 540, 600, bytes.len() - 1] {
        let text = refusal(&dir.put("t.nii", &bytes[..n]));
        assert!(text.starts_with("is truncated"), "{n}: {text}");
    }
    for n in [12, 30, 100, 300, 500, packed.len() - 20, packed.len() - 5] {
        let text = refusal(&dir.put("t.nii.gz", &packed[..n]));
        let named = ["truncated", "too short", "damaged (gzip"].iter().any(|w| text.contains(w));
        assert!(named, "{n}: {text}");
    }
    // A checksum that does not fit.
    let mut wrong = packed.clone();
    let crc = wrong.len() - 8;
    wrong[crc] ^= 1;
    assert!(refusal(&dir.put("c.nii.gz", &wrong)).contains("damaged (gzip"));
    // Every single flipped byte of the stream is noticed or harmless, never a panic.
    for i in 0..packed.len() {
        let mut bad = packed.clone();
        bad[i] ^= 0x55;
        let path = dir.put("f.nii.gz", &bad);
        if let Ok(image) = read(&path, FrameChoice::All) {
            assert_eq!(image.raw(), nii.data, "byte {i} changed voxels unnoticed");
        }
    }
}

#[test]
fn damaged_headers_neither_panic_nor_take_memory() {
    let dir = Folder::new();
    let mut state = 2_u32;
    let (mut read_ok, mut refused) = (0, 0);
    for round in 0..4000_u32 {
        let mut nii = Nii::new();
        nii.two = round % 2 == 1;
        nii.big = round % 4 > 1;
        if round % 8 > 3 {
            nii.extensions = extension(6, b"some bytes of an extension");
        }
        if nii.big {
            nii.data = value_bytes(4, true, 1);
        }
        let mut bytes = nii.bytes();
        let length = nii.head().len();
        for _ in 0..1 + lcg(&mut state) % 6 {
            let at = (usize::from(lcg(&mut state)) << 8 | usize::from(lcg(&mut state))) % length;
            bytes[at] = match lcg(&mut state) % 4 {
                0 => 0xff,
                1 => 0x7f,
                2 => 0,
                _ => lcg(&mut state),
            };
        }
        if round % 16 == 7 {
            bytes.truncate(usize::from(lcg(&mut state)) * 3);
        }
        let packed = round % 3 == 0;
        let path = dir.put("f.nii", &if packed { gz(&bytes) } else { bytes.clone() });
        match read(&path, FrameChoice::All) {
            Ok(image) => {
                read_ok += 1;
                assert!(image.raw().len() <= bytes.len());
                for frame in 0..image.frames() {
                    let volume = image.frame_f32(frame).unwrap();
                    assert_eq!(volume.data.len(), image.voxels());
                    let map = AxisMap::to_canonical(&volume.affine);
                    assert_eq!(map.apply(volume.shape, &volume.data).len(), image.voxels());
                }
                if round % 7 > 0 {
                    continue;
                }
                let keep = vec![1; image.voxels()];
                let out = dir.path("out.nii");
                write_stripped(&out, &image, &keep, 0.0).unwrap();
                let back = read(&out, FrameChoice::All).unwrap();
                assert_eq!(back.raw(), image.raw());
                assert_eq!(rows(&back.affine()), rows(&image.affine()));
            }
            Err(error) => {
                refused += 1;
                assert!(error.to_string().contains("; "), "{error}");
            }
        }
    }
    // The mutations do reach both outcomes.
    assert!(read_ok > 500 && refused > 500, "{read_ok} {refused}");
    assert!(LARGEST.load(Ordering::Relaxed) < SANE);
}

#[test]
fn forms_by_the_rules() {
    let dir = Folder::new();
    // 90 degrees about z: x runs to +y.
    let half = 0.5_f64.sqrt();
    let q = Nii {
        codes: [1, 0],
        quatern: [0.0, 0.0, half],
        qoffset: [1.0, 2.0, 3.0],
        pixdim: [1.0, 2.0, 3.0, 4.0, 0.0, 0.0, 0.0, 0.0],
        ..Nii::new().version_two()
    };
    let want = [[0.0, -3.0, 0.0, 1.0], [2.0, 0.0, 0.0, 2.0], [0.0, 0.0, 4.0, 3.0]];
    let near = |image: &Image, want: [[f64; 4]; 3]| {
        let got = rows(&image.affine());
        let gap = (0..12).map(|i| (got[i / 4][i % 4] - want[i / 4][i % 4]).abs());
        assert!(gap.fold(0.0, f64::max) < 1e-6, "{got:?} {want:?}");
    };
    let image = only(&dir.put("q.nii", &q.bytes()));
    assert_eq!(image.form_source(), FormSource::Qform);
    near(&image, want);
    assert!(image.warnings().is_empty());
    // qfac 0 counts as +1, -1 turns z round.
    let mut odd = q.clone();
    odd.pixdim[0] = 0.0;
    near(&only(&dir.put("q.nii", &odd.bytes())), want);
    odd.pixdim[0] = -1.0;
    let mut turned = want;
    turned[2][2] = -4.0;
    near(&only(&dir.put("q.nii", &odd.bytes())), turned);
    // Negative voxel size: its absolute value, with a warning.
    let mut negative = q.clone();
    negative.pixdim[1] = -2.0;
    let image = only(&dir.put("q.nii", &negative.bytes()));
    near(&image, want);
    assert_eq!(image.warnings(), [Warning::NegativePixdim([-2.0, 3.0, 4.0])]);
    // The sform wins; that they disagree is said.
    let mut both = q.clone();
    both.codes = [1, 2];
    let image = only(&dir.put("b.nii", &both.bytes()));
    assert_eq!(image.form_source(), FormSource::Sform);
    assert_eq!(rows(&image.affine()), OBLIQUE);
    assert!(matches!(image.warnings(), [Warning::FormsDisagree { .. }]));
    // Neither.
    let mut none = q.clone();
    none.codes = [0, 0];
    let image = only(&dir.put("n.nii", &none.bytes()));
    near(&image, [[-2.0, 0.0, 0.0, 6.0], [0.0, 3.0, 0.0, -7.5], [0.0, 0.0, 4.0, -8.0]]);
    assert_eq!(image.warnings(), [Warning::NoOrientation]);
    // Singular.
    let mut flat = q;
    flat.codes = [0, 1];
    flat.srow[2] = flat.srow[1];
    assert!(refusal(&dir.put("s.nii", &flat.bytes())).contains("unusable sform"));
    let image = only(&dir.put("i.nii", &Nii::new().version_two().bytes()));
    assert!((image.voxel_volume_ml() - 1.0422e-3).abs() < 5e-6);
}

#[test]
fn non_finite_voxels_are_seen() {
    let dir = Folder::new();
    let mut nii = Nii::with(16, 32, false);
    nii.data[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    nii.data[4..8].copy_from_slice(&f32::INFINITY.to_le_bytes());
    let image = only(&dir.put("x.nii", &nii.bytes()));
    let mut volume = image.frame_f32(0).unwrap();
    assert_eq!(volume.check_content().unwrap().non_finite, 2);
    let warning = volume.replace_non_finite().unwrap();
    assert!(warning.to_string().starts_with("2 of 210 voxels"), "{warning}");
}

#[test]
fn extensions_survive_and_damaged_ones_do_no_harm() {
    let dir = Folder::new();
    let records = [extension(6, b"hello ext"), extension(4, &[7; 500])].concat();
    for two in [false, true] {
        let nii = Nii { two, extensions: records.clone(), ..Nii::new() };
        for bytes in [nii.bytes(), gz(&nii.bytes())] {
            let image = only(&dir.put("x.nii", &bytes));
            assert_eq!(values(&image), expected(4));
            write_mask(dir.path("m.nii.gz"), &image, &[1; VOXELS]).unwrap();
            let back = only(&dir.path("m.nii.gz"));
            assert_eq!(back.header().extensions(), [&[1, 0, 0, 0][..], &records].concat());
            assert_eq!(values(&back), [1.0; VOXELS]);
        }
        // A record that claims more than there is: kept up to it, with a warning.
        let mut bad = nii.clone();
        let second = extension(6, b"hello ext").len();
        bad.extensions[second..second + 4].copy_from_slice(&1_000_000_i32.to_le_bytes());
        let image = only(&dir.put("x.nii", &bad.bytes()));
        assert_eq!(values(&image), expected(4));
        assert_eq!(image.warnings(), [Warning::DamagedExtensions]);
        assert_eq!(image.header().extensions().len(), 4 + second);
        // Zeros between the records and the voxels are padding.
        let mut padded = nii.clone();
        padded.extensions.extend([0; 32]);
        let image = only(&dir.put("x.nii", &padded.bytes()));
        assert!(image.warnings().is_empty());
        assert_eq!(image.header().extensions().len(), 4 + records.len());
    }
}

#[test]
fn every_warning_and_refusal_says_what_to_do() {
    for warning in [
        Warning::NegativePixdim([-1.0, 1.0, 1.0]),
        Warning::NoOrientation,
        Warning::FormsDisagree { sform: "RAS".into(), qform: "LAS".into(), displacement_mm: 3.0 },
        Warning::Units("metres"),
        Warning::NonFinite { count: 1, total: 2 },
        Warning::SeveralLabels { count: 2, max: 41.0 },
        Warning::LooksLikeScan { more_than: 250, max: 1000.0 },
        Warning::Fractions,
        Warning::FullMask,
        Warning::DamagedExtensions,
    ] {
        assert!(warning.to_string().contains("; "), "{warning}");
    }
    let dir = Folder::new();
    let mut metres = Nii::new();
    metres.write(&dir.path("x.nii"));
    assert!(only(&dir.path("x.nii")).warnings().is_empty());
    metres.two = true;
    let mut bytes = metres.bytes();
    bytes[500] = 1;
    assert_eq!(only(&dir.put("x.nii", &bytes)).warnings(), [Warning::Units("metres")]);
}

/// A header in metres or micrometres says where voxels lie as one in mm does, and outputs keep its unit and forms.
#[test]
fn lengths_in_other_units_are_converted() {
    let dir = Folder::new();
    for two in [false, true] {
        for (unit, mm) in [(1, 1000.0), (3, 1e-3)] {
            for codes in [[0, 2], [1, 0], [0, 0]] {
                let plain =
                    Nii { two, codes, quatern: [0.1, -0.2, 0.3], qoffset: [10.0, -20.0, 30.0], ..Nii::new() };
                let mut other = plain.clone();
                other.pixdim[1..4].iter_mut().for_each(|v| *v /= mm);
                other.qoffset.iter_mut().for_each(|v| *v /= mm);
                other.srow.iter_mut().flatten().for_each(|v| *v /= mm);
                let mut bytes = other.bytes();
                bytes[if two { 500 } else { 123 }] = 8 | unit;
                let want = {
                    plain.write(&dir.path("mm.nii"));
                    only(&dir.path("mm.nii"))
                };
                let image = only(&dir.put("other.nii", &bytes));
                assert_eq!(image.warnings(), want.warnings());
                assert!(image.affine().abs_diff_eq(want.affine(), 1e-4), "{unit} {codes:?}");
                assert!((image.voxel_volume_ml() - want.voxel_volume_ml()).abs() < 1e-8);

                // On its own grid an output has the header's bytes; on a new one its unit.
                let out = dir.path("out.nii");
                write_mask(&out, &image, &vec![1; VOXELS]).unwrap();
                assert_eq!(only(&out).affine(), image.affine());
                let written = std::fs::read(&out).unwrap();
                let forms = if two { 344..496 } else { 252..328 };
                assert_eq!(written[forms.clone()], bytes[forms]);
                let affine = DMat4::from_translation(DVec3::X) * image.affine();
                write_new(&out, image.shape(), &affine, &vec![1.0; VOXELS], &image).unwrap();
                assert!(only(&out).affine().abs_diff_eq(affine, 1e-4));
            }
        }
    }
}

#[cfg(unix)]
#[test]
fn a_pair_of_files_need_not_have_a_name_in_utf8() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let dir = Folder::new();
    let name = |end: &str| dir.0.path().join(OsStr::from_bytes(&[b"Schl\xe4fe", end.as_bytes()].concat()));
    let pair = Nii { pair: true, ..Nii::new() };
    // Some file systems refuse such names.
    if std::fs::write(name(".hdr"), pair.head()).is_err() {
        return;
    }
    std::fs::write(name(".img"), &pair.data).unwrap();
    assert_eq!(values(&only(&name(".hdr"))), expected(4));
    assert_eq!(values(&only(&name(".img"))), expected(4));
}
