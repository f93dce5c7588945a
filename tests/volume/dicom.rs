//! Series of DICOM: geometry, order, ways of storing pixels, and what is refused.

use std::fs;
use std::path::Path;
use std::process::Command;

use glam::DVec3;
use nifti::NiftiType;
use trephine::tensor::Xyz;
use trephine::volume::image::{self, FrameChoice, Image, read, read_info, write_stripped};

use crate::dicom_files::{EXPLICIT, Object, PATIENT, Scan, Tag};
use crate::nii::{Folder, Nii, lcg};

/// What is changed in a slice.
type Edit<'a> = &'a dyn Fn(usize, &mut Object);

const POSITION: Tag = (0x20, 0x32);

fn open(path: &Path) -> Image {
    read(path, FrameChoice::Only).expect("the series reads")
}

fn refusal(path: &Path) -> String {
    let error = read(path, FrameChoice::Only).expect_err("refused").to_string();
    assert!(error.contains("; "), "no remedy: {error}");
    error
}

/// Every value lies where the scan has it.
fn check(image: &Image, scan: &Scan, of: impl Fn(u16, usize) -> f64) {
    let Xyz([nx, ny, nz]) = image.shape();
    assert_eq!([nx, ny, nz], [scan.columns, scan.rows, scan.slices]);
    let to_voxel = image.affine().inverse();
    let volume = image.frame_f32(0).expect("held");
    for slice in 0..scan.slices {
        for row in 0..scan.rows {
            for column in 0..scan.columns {
                let place = DVec3::from_array(scan.world([column, row, slice]));
                let at = to_voxel.transform_point3(place);
                let whole = at.round();
                assert!(at.distance(whole) < 1e-6, "{at}");
                let [x, y, z] = whole.to_array().map(|v| v as usize);
                let got = f64::from(volume.data[x + nx * (y + ny * z)]);
                let want = of(scan.pixels(slice)[column + scan.columns * row], slice);
                assert!((got - want).abs() < 1e-3, "{column} {row} {slice}: {got} {want}");
            }
        }
    }
}

fn same(value: u16, _: usize) -> f64 {
    value.into()
}

#[test]
fn slices_lie_where_they_say() {
    let dir = Folder::new();
    // Sagittal, against the normal; axial along it; and turned about all axes.
    let axial = Scan {
        orientation: [1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
        origin: [-100.0, -80.0, 30.0],
        step: [0.0, 0.0, 4.0],
        spacing: [0.5, 0.75],
        ..Scan::new()
    };
    let turned = glam::DMat3::from_euler(glam::EulerRot::ZYX, 0.3, -0.2, 0.5);
    let oblique = Scan {
        orientation: std::array::from_fn(|i| if i < 3 { turned.x_axis[i] } else { turned.y_axis[i - 3] }),
        step: (turned.z_axis * -2.5).to_array(),
        ..Scan::new()
    };
    for (name, scan) in [("sagittal", Scan::new()), ("axial", axial), ("oblique", oblique)] {
        let folder = dir.path(name);
        scan.write(&folder);
        let image = open(&folder);
        check(&image, &scan, same);
        assert_eq!(image.datatype(), NiftiType::Uint16);
        assert!(image.affine().determinant() > 0.0 && image.warnings().is_empty());
        assert_eq!(read_info(&folder).expect("reads").shape, image.shape());
        // Any file stands for its series, whatever lies beside it.
        fs::write(folder.join("notes.txt"), "no image").expect("writes");
        let file = image::files(&folder).swap_remove(4);
        check(&open(&file), &scan, same);
        assert_eq!(image::files(&file).len(), 7);
        compare_with_dcm2niix(&folder, &image);
    }
}

#[test]
fn pixels_come_out_of_every_way_to_store_them() {
    let dir = Folder::new();
    let big = Scan { syntax: "1.2.840.10008.1.2.2", ..Scan::new() };
    let implicit = Scan { syntax: "1.2.840.10008.1.2", ..Scan::new() };
    for (name, scan) in [("big", big), ("implicit", implicit)] {
        scan.write(&dir.path(name));
        check(&open(&dir.path(name)), &scan, same);
    }
    let runs = Scan { syntax: "1.2.840.10008.1.2.5", ..Scan::new() };
    let folder = dir.path("runs");
    runs.write_with(&folder, |slice, object| object.fragments(vec![packed(runs.pixels(slice))]));
    check(&open(&folder), &runs, same);
    // In two fragments, as one frame may be.
    let lossless = Scan { syntax: "1.2.840.10008.1.2.4.70", ..Scan::new() };
    let folder = dir.path("lossless");
    lossless.write_with(&folder, |slice, object| {
        let bytes = lossless_jpeg(lossless.pixels(slice), lossless.columns, lossless.rows);
        let (a, b) = bytes.split_at(60);
        object.fragments(vec![a.to_vec(), b.to_vec()]);
    });
    check(&open(&folder), &lossless, same);

    let enhanced = Scan::new();
    let file = dir.path("enhanced.dcm");
    enhanced.write_enhanced(&file);
    check(&open(&file), &enhanced, same);
    let alone = dir.path("alone");
    fs::create_dir(&alone).expect("makes");
    fs::copy(&file, alone.join("0")).expect("copies");
    compare_with_dcm2niix(&alone, &open(&alone));
}

#[test]
fn numbers_mean_what_the_header_says() {
    let dir = Folder::new();
    let scan = Scan::new();
    // Twelve bits with a sign, and an overlay in those above.
    let folder = dir.path("signed");
    scan.write_with(&folder, |slice, object| {
        object.number((0x28, 0x101), 12);
        object.number((0x28, 0x102), 11);
        object.number((0x28, 0x103), 1);
        let values: Vec<u16> = scan.pixels(slice).iter().map(|v| v | 0x3000).collect();
        object.pixels(&values);
    });
    let signed = |v: u16, _| f64::from((v << 4).cast_signed() >> 4);
    let image = open(&folder);
    check(&image, &scan, signed);
    assert_eq!(image.datatype(), NiftiType::Int16);

    let folder = dir.path("scaled");
    scan.write_with(&folder, |_, object| {
        object.text((0x28, 0x1052), "DS", "-24");
        object.text((0x28, 0x1053), "DS", "0.5");
    });
    let image = open(&folder);
    check(&image, &scan, |v, _| f64::from(v) * 0.5 - 24.0);
    assert_eq!(image.datatype(), NiftiType::Uint16);
    // The brain keeps the scan's numbers and their scaling; nothing of the patient goes with it.
    let out = dir.path("brain.nii");
    write_stripped(&out, &image, &vec![1; image.voxels()], 0.0).expect("writes");
    check(&open(&out), &scan, |v, _| f64::from(v) * 0.5 - 24.0);
    let bytes = fs::read(&out).expect("reads");
    assert!(!bytes.windows(PATIENT.len()).any(|text| text == PATIENT.as_bytes()));
    assert!(!bytes.windows(6).any(|text| text == scan.description.as_bytes()));

    let folder = dir.path("each");
    scan.write_with(&folder, |slice, object| {
        object.text((0x28, 0x1053), "DS", &(slice + 1).to_string());
    });
    let image = open(&folder);
    check(&image, &scan, |v, slice| f64::from(v) * (slice + 1) as f64);
    assert_eq!(image.datatype(), NiftiType::Float32);
}

#[test]
fn what_is_no_even_stack_is_refused() {
    let dir = Folder::new();
    let scan = Scan::new();
    let with = |name: &str, edit: Edit<'_>| {
        scan.write_with(&dir.path(name), edit);
        refusal(&dir.path(name))
    };
    let moved = |slice: usize, by: [f64; 3]| {
        let position = scan.position(slice);
        let text: Vec<String> = (0..3).map(|i| format!("{:.6}", position[i] + by[i])).collect();
        text.join("\\")
    };
    let cases: [(&str, &str, Edit<'_>); 11] = [
        ("gap", "a gap of 2.600 mm between", &|slice, object| {
            if slice > 3 {
                object.text(POSITION, "DS", &moved(slice, [-1.3, 0.0, 0.0]));
            }
        }),
        ("uneven", "lies 0.200 mm from where", &|slice, object| {
            if slice == 3 {
                object.text(POSITION, "DS", &moved(slice, [0.2, 0.0, 0.0]));
            }
        }),
        ("aside", "lies 0.500 mm from where", &|slice, object| {
            if slice == 3 {
                object.text(POSITION, "DS", &moved(slice, [0.0, 0.5, 0.0]));
            }
        }),
        ("twice", "several slices at one place", &|slice, object| {
            if slice == 3 {
                object.text(POSITION, "DS", &moved(4, [0.0; 3]));
            }
        }),
        ("turned", "slices of different orientations", &|slice, object| {
            if slice == 6 {
                object.text((0x20, 0x37), "DS", "1\\0\\0\\0\\1\\0");
            }
        }),
        ("spacing", "pixels are of different sizes", &|slice, object| {
            if slice == 2 {
                object.text((0x28, 0x30), "DS", "1.1\\1.0");
            }
        }),
        ("skewed", "rows and columns at right angles", &|_, object| {
            object.text((0x20, 0x37), "DS", "1\\0\\0\\1\\0\\0");
        }),
        ("inverted", "MONOCHROME1", &|_, object| object.text((0x28, 4), "CS", "MONOCHROME1")),
        ("colour", "colours", &|_, object| object.text((0x28, 4), "CS", "RGB")),
        ("mosaic", "a mosaic", &|_, object| object.text((8, 8), "CS", "ORIGINAL\\PRIMARY\\MOSAIC")),
        ("placeless", "slices without a position", &|_, object| object.remove(POSITION)),
    ];
    for (name, words, edit) in cases {
        let text = with(name, edit);
        assert!(text.contains(words) && text.contains("dcm2niix") || name == "skewed", "{name}: {text}");
        assert!(text.contains(words), "{name}: {text}");
    }
    let jpeg2000 = Scan { syntax: "1.2.840.10008.1.2.4.90", ..Scan::new() };
    jpeg2000.write_with(&dir.path("j2k"), |_, object| object.fragments(vec![vec![0; 8]]));
    let text = refusal(&dir.path("j2k"));
    assert!(text.contains("JPEG 2000") && text.contains("dcm2niix"), "{text}");
    // A stack that leans is a legal, sheared grid.
    let leaning = Scan { step: [-1.3, 0.4, 0.1], ..Scan::new() };
    leaning.write(&dir.path("leaning"));
    check(&open(&dir.path("leaning")), &leaning, same);
    let lone = Scan { slices: 1, ..Scan::new() };
    lone.write(&dir.path("lone"));
    assert!(refusal(&dir.path("lone")).contains("a single slice"));
}

#[test]
fn several_series_are_listed_and_one_is_chosen_by_a_file() {
    let dir = Folder::new();
    let (one, other) =
        (Scan::new(), Scan { uid: "1.2.9", number: 12, description: "t2 tse", slices: 5, ..Scan::new() });
    one.write(dir.0.path());
    other.write(&dir.path("more"));
    other.write_with(dir.0.path(), |_, object| object.text((0x20, 0x11), "IS", "12"));
    let text = refusal(dir.0.path());
    assert!(text.contains("\n  series 3, t1 sag: 7 slices of 11x9, "), "{text}");
    assert!(text.contains("\n  series 12, t2 tse: 10 slices of 11x9, "), "{text}");
    check(&open(&dir.path("12_3.dcm")), &other, same);
    check(&open(&dir.path("3_3.dcm")), &one, same);
    assert!(image::is_dicom(dir.0.path()) && !image::is_dicom(&dir.path("none")));
    // A NIfTI file beside them is read as itself.
    let nifti = dir.put("head.nii", &Nii::new().bytes());
    assert_eq!(open(&nifti).shape(), Xyz([7, 6, 5]));
    assert_eq!(image::series_uid(&nifti), None);
    assert_eq!(image::series_uid(&dir.path("3_3.dcm")).as_deref(), Some("1.2.3.4"));
}

/// Hundreds of damaged files: an error, or a volume of the right size; never a panic, and no memory that a length asked for.
#[test]
fn damage_never_panics() {
    let dir = Folder::new();
    let mut plain = Scan { slices: 2, ..Scan::new() };
    let mut seed = 7;
    let mut words = [0_usize; 2];
    for (name, syntax) in [
        ("plain", EXPLICIT),
        ("implicit", "1.2.840.10008.1.2"),
        ("runs", "1.2.840.10008.1.2.5"),
        ("lossless", "1.2.840.10008.1.2.4.70"),
        ("enhanced", EXPLICIT),
    ] {
        plain.syntax = syntax;
        let folder = dir.path(name);
        match name {
            "enhanced" => {
                fs::create_dir(&folder).expect("makes");
                plain.write_enhanced(&folder.join("3_3.dcm"));
            }
            _ => plain.write_with(&folder, |slice, object| match name {
                "runs" => object.fragments(vec![packed(plain.pixels(slice))]),
                "lossless" => {
                    object.fragments(vec![lossless_jpeg(plain.pixels(slice), plain.columns, plain.rows)]);
                }
                _ => {}
            }),
        }
        let file = folder.join("3_3.dcm");
        let sound = fs::read(&file).expect("reads");
        for round in 0..120 {
            let mut bytes = sound.clone();
            let mut random = |below: usize| {
                let [a, b, c] = [0; 3].map(|_| usize::from(lcg(&mut seed)));
                (a << 16 | b << 8 | c) % below
            };
            for _ in 0..=random(3) {
                let at = 132 + random(bytes.len() - 132);
                bytes[at] = [0, 0xff, random(256) as u8][random(3)];
            }
            if round % 4 == 0 {
                bytes.truncate(random(bytes.len()));
            }
            fs::write(&file, &bytes).expect("writes");
            let (result, held) = crate::peak_of(|| read(&folder, FrameChoice::Only));
            assert!(held < crate::SANE as isize, "{name} {round}: {held} bytes");
            words[usize::from(result.is_ok())] += 1;
            if let Ok(image) = result {
                assert_eq!(image.raw().len(), image.voxels() * image.datatype().size_of());
            }
        }
    }
    // Damage to what no one reads is none; most of the rest is seen.
    assert!(words[0] > 100 && words[1] > 100, "{words:?}");
}

/// `PackBits` in the segments of a DICOM frame: repeats where there are three alike, else literals of one.
fn packed(pixels: &[u16]) -> Vec<u8> {
    let pack = |plane: Vec<u8>| {
        let mut out = Vec::new();
        let mut rest = &plane[..];
        while let Some(&first) = rest.first() {
            let alike = rest.iter().take(128).take_while(|&&v| v == first).count();
            if alike > 2 {
                out.extend([(1 - alike as i32) as u8, first]);
            } else {
                out.push(alike as u8 - 1);
                out.extend(&rest[..alike]);
            }
            rest = &rest[alike..];
        }
        out.resize(out.len().next_multiple_of(2), 0x80);
        out
    };
    let high = pack(pixels.iter().map(|v| (v >> 8) as u8).collect());
    let low = pack(pixels.iter().map(|v| *v as u8).collect());
    let mut header = [0_u32; 16];
    (header[0], header[1], header[2]) = (2, 64, 64 + high.len() as u32);
    header.iter().flat_map(|v| v.to_le_bytes()).chain(high).chain(low).collect()
}

/// Lossless JPEG (process 14, predictor 1) of 16 bits, all categories with codes of five bits.
fn lossless_jpeg(pixels: &[u16], columns: usize, rows: usize) -> Vec<u8> {
    let two = |v: usize| (v as u16).to_be_bytes();
    let mut out = vec![0xff, 0xd8, 0xff, 0xc3, 0, 11, 16];
    out.extend([two(rows), two(columns)].concat());
    out.extend([1, 1, 0x11, 0]);
    out.extend([0xff, 0xc4, 0, 19 + 17, 0]);
    out.extend((1..=16).map(|length| if length == 5 { 17 } else { 0 }));
    out.extend(0..17);
    out.extend([0xff, 0xda, 0, 8, 1, 1, 0, 1, 0, 0]);
    let (mut bits, mut held) = (0_u64, 0);
    let mut put = |out: &mut Vec<u8>, value: u64, count: u32| {
        bits = bits << count | value;
        held += count;
        while held >= 8 {
            held -= 8;
            let byte = (bits >> held) as u8;
            out.push(byte);
            if byte == 0xff {
                out.push(0);
            }
        }
    };
    for (ix, &pixel) in pixels.iter().enumerate() {
        let predicted = match (ix % columns, ix / columns) {
            (0, 0) => 1 << 15,
            (0, _) => pixels[ix - columns],
            _ => pixels[ix - 1],
        };
        let difference = i32::from(pixel.wrapping_sub(predicted).cast_signed());
        let category = 32 - difference.unsigned_abs().leading_zeros();
        put(&mut out, u64::from(category), 5);
        if (1..16).contains(&category) {
            let low = if difference < 0 { difference - 1 } else { difference };
            put(&mut out, u64::from(low as u32 & ((1 << category) - 1)), category);
        }
    }
    put(&mut out, 0x7f, 7);
    out.extend([0xff, 0xd9]);
    out.resize(out.len().next_multiple_of(2), 0);
    out
}

/// Where dcm2niix is at hand, it puts every value in the same place.
fn compare_with_dcm2niix(folder: &Path, image: &Image) {
    let program = std::env::var("TREPHINE_DCM2NIIX").unwrap_or("dcm2niix".to_owned());
    let out = tempfile::tempdir().expect("a folder");
    let run = Command::new(&program)
        .args(["-z", "n", "-b", "n", "-f", "scan", "-o"])
        .args([out.path(), folder])
        .output();
    let Ok(run) = run else {
        eprintln!("SKIPPED: no dcm2niix is found (PyPI: dcm2niix), and nothing compared with it");
        return;
    };
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stdout));
    let theirs = open(&out.path().join("scan.nii"));
    let (a, b) = (image.frame_f32(0).expect("held"), theirs.frame_f32(0).expect("held"));
    let to_ours = image.affine().inverse() * theirs.affine();
    let (Xyz([nx, ny, nz]), Xyz([mx, my, _])) = (a.shape, b.shape);
    assert_eq!(a.data.len(), b.data.len());
    let mut worst = 0.0_f64;
    for (ix, value) in b.data.iter().enumerate() {
        let at = DVec3::new((ix % mx) as f64, (ix / mx % my) as f64, (ix / (mx * my)) as f64);
        let there = to_ours.transform_point3(at);
        let whole = there.round();
        worst = worst.max(image.affine().transform_vector3(there - whole).length());
        let [x, y, z] = whole.to_array().map(|v| v as usize);
        assert!(x < nx && y < ny && z < nz, "{there}");
        assert_eq!(*value, a.data[x + nx * (y + ny * z)]);
    }
    eprintln!("{}: {worst:.1e} mm from dcm2niix", folder.display());
    assert!(worst < 1e-3, "{worst} mm");
}
