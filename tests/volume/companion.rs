//! Masks, weights and fields of an image: matched by where their voxels lie.

use super::nii::{Folder, Nii, SHAPE, VOXELS, only, rows, value_bytes};
use glam::{DMat4, DVec3};
use trephine::tensor::Xyz;
use trephine::volume::companion::{Placement, check_mask, read_mask, read_values};
use trephine::volume::image::{Image, read_info};
use trephine::volume::orientation::AxisMap;
use trephine::volume::{Problem, Warning};

fn floats(values: &[f32]) -> Nii {
    let data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    Nii { scaling: [1.0, 0.0], data, ..Nii::with(16, 32, false) }
}

fn bytes(values: Vec<u8>) -> Nii {
    Nii { scaling: [1.0, 0.0], data: values, ..Nii::with(2, 8, false) }
}

/// 1 in about a third of the voxels, without any symmetry.
fn marked() -> Vec<u8> {
    (0..VOXELS).map(|ix| u8::from(ix * ix % 11 < 3)).collect()
}

/// A folder with the image `head.nii`.
fn desk() -> (Folder, Image) {
    let folder = Folder::new();
    Nii::new().write(&folder.path("head.nii"));
    let image = only(&folder.path("head.nii"));
    (folder, image)
}

/// The same image with its axes in another order.
fn turned(nii: &Nii, image: &Image, map: AxisMap) -> Nii {
    let voxel = nii.data.len() / VOXELS;
    let cells: Vec<&[u8]> = nii.data.chunks(voxel).collect();
    Nii {
        dim: map.shape(Xyz(SHAPE)).map(|n| n as i64).0.into(),
        srow: rows(&map.affine(&image.affine(), Xyz(SHAPE))),
        data: map.apply(Xyz(SHAPE), &cells).concat(),
        ..nii.clone()
    }
}

#[test]
fn axes_in_any_order_are_put_right_exactly() {
    let (folder, image) = desk();
    let mask = marked();
    let values: Vec<f32> = (0..VOXELS).map(|ix| ix as f32 * 0.37 - 3.0).collect();
    for source in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        for bits in 0..8 {
            let map = AxisMap { source, flip: [bits & 1 > 0, bits & 2 > 0, bits & 4 > 0] };
            let path = folder.path("turned.nii");
            turned(&bytes(mask.clone()), &image, map).write(&path);
            let read = read_mask(&path, &image, None).unwrap();
            assert!(read.voxels == mask && read.warnings.is_empty(), "{map:?}: {:?}", read.warnings);
            turned(&floats(&values), &image, map).write(&path);
            assert_eq!(read_values(&path, &image).unwrap().data, values, "{map:?}");
        }
    }
}

/// `nii` moved by a part of a voxel of the image along each axis.
fn moved(nii: Nii, image: &Image, voxels: f64) -> Nii {
    let affine = image.affine() * DMat4::from_translation(DVec3::splat(voxels));
    Nii { srow: rows(&affine), ..nii }
}

#[test]
fn rounding_of_headers_is_one_grid_and_more_is_not() {
    let (folder, image) = desk();
    let path = folder.path("mask.nii");
    moved(bytes(marked()), &image, 4e-4).write(&path);
    let read = read_mask(&path, &image, None).unwrap();
    assert!(read.voxels == marked() && read.warnings.is_empty());
    assert!(read_values(&path, &image).is_ok());

    // Half a percent of a voxel: a mask is sampled, which changes no voxel here; values are refused.
    moved(bytes(marked()), &image, 5e-3).write(&path);
    let read = read_mask(&path, &image, None).unwrap();
    assert_eq!(read.voxels, marked());
    let text = read.warnings[0].to_string();
    assert!(text.starts_with("lies on another grid than its image (7x6x5 voxels of"), "{text}");
    assert!(matches!(check_mask(&path, image.info()), Ok(Placement::Resampled(_))));
    let error = read_values(&path, &image).unwrap_err();
    assert!(matches!(error.problem, Problem::OtherGrid(_)));
    assert!(error.to_string().contains("trephine resample --like IMAGE"), "{error}");
}

#[test]
fn a_mask_on_another_grid_is_sampled_where_it_lies() {
    let (folder, image) = desk();
    let path = folder.path("mask.nii");
    // Two voxels further along x of the image: of its 7 planes, 2 lie outside.
    let affine = image.affine() * DMat4::from_translation(DVec3::X * 2.0);
    Nii { srow: rows(&affine), ..bytes(vec![1; VOXELS]) }.write(&path);
    let read = read_mask(&path, &image, None).unwrap();
    let want: Vec<u8> = (0..VOXELS).map(|ix| u8::from(ix % 7 >= 2)).collect();
    assert_eq!(read.voxels, want);
    let [Warning::OtherGrid { outside_percent, .. }] = &read.warnings[..] else {
        panic!("{:?}", read.warnings)
    };
    assert!((outside_percent - 200.0 / 7.0).abs() < 1e-9, "{outside_percent}");
    assert!(read.warnings[0].to_string().contains("corners up to 1.8 mm apart"), "{}", read.warnings[0]);

    // Voxels of twice the edge in the same box, some of whose planes reach beyond.
    let affine =
        image.affine() * DMat4::from_translation(DVec3::splat(0.5)) * DMat4::from_scale(DVec3::splat(2.0));
    let coarse = (0..4 * 3 * 3).map(|ix| u8::from(ix % 4 == 1)).collect();
    Nii { dim: vec![4, 3, 3], srow: rows(&affine), ..bytes(coarse) }.write(&path);
    let read = read_mask(&path, &image, None).unwrap();
    let want: Vec<u8> = (0..VOXELS).map(|ix| u8::from(ix % 7 / 2 == 1)).collect();
    assert_eq!(read.voxels, want);
}

#[test]
fn a_companion_elsewhere_is_refused_in_words() {
    let (folder, image) = desk();
    let path = folder.path("mask.nii");
    moved(bytes(marked()), &image, 100.0).write(&path);
    for error in [
        read_mask(&path, &image, None).unwrap_err(),
        read_values(&path, &image).unwrap_err(),
        check_mask(&path, image.info()).unwrap_err(),
    ] {
        let text = error.to_string();
        assert!(
            text.contains("lies nowhere in its image (7x6x5 voxels of") && text.contains("mm apart"),
            "{text}"
        );
    }
    // The boxes overlap, the marked voxel lies outside.
    let affine = image.affine() * DMat4::from_translation(DVec3::X * 2.0);
    let last = (0..VOXELS).map(|ix| u8::from(ix == VOXELS - 1)).collect();
    Nii { srow: rows(&affine), ..bytes(last) }.write(&path);
    let error = read_mask(&path, &image, None).unwrap_err();
    assert!(matches!(error.problem, Problem::MaskOutside), "{error}");
}

#[test]
fn what_counts_as_marked() {
    let (folder, image) = desk();
    let path = folder.path("mask.nii");
    let read = |nii: &Nii| {
        nii.write(&path);
        read_mask(&path, &image, None)
    };
    let scaled = |value: f32| floats(&marked().iter().map(|&v| f32::from(v) * value).collect::<Vec<_>>());
    for value in [1.0, 255.0, 0.4, -1.0, 1e-6] {
        let mask = read(&scaled(value)).unwrap();
        assert!(mask.voxels == marked() && mask.warnings.is_empty(), "{value}: {:?}", mask.warnings);
    }
    let mut with_nan = marked().iter().map(|&v| f32::from(v)).collect::<Vec<_>>();
    with_nan[5] = f32::NAN;
    with_nan[6] = f32::INFINITY;
    let mask = read(&floats(&with_nan)).unwrap();
    assert_eq!(mask.voxels[5..7], [0, 0]);

    let labels: Vec<u8> = (0..VOXELS).map(|ix| [0, 0, 2, 41, 0][ix % 5]).collect();
    let mask = read(&bytes(labels.clone())).unwrap();
    assert_eq!(mask.voxels, labels.iter().map(|&v| u8::from(v != 0)).collect::<Vec<_>>());
    assert!(mask.warnings[0].to_string().starts_with("holds 2 labels up to 41"), "{}", mask.warnings[0]);
    let fractions: Vec<f32> = (0..VOXELS).map(|ix| (ix % 10) as f32 / 9.0 * 1.1 - 0.05).collect();
    let mask = read(&floats(&fractions)).unwrap();
    assert_eq!(mask.voxels, fractions.iter().map(|&v| u8::from(v > 0.5)).collect::<Vec<_>>());
    assert_eq!(mask.warnings, [Warning::Fractions]);
    let full = read(&bytes(vec![1; VOXELS])).unwrap();
    assert_eq!(full.warnings, [Warning::FullMask]);

    for (bad, words) in [
        (bytes(vec![0; VOXELS]), "is empty"),
        (floats(&[f32::NAN; VOXELS]), "is empty"),
        (bytes((0..VOXELS).map(|ix| 1 + (ix % 2) as u8).collect()), "has no voxel of 0"),
        (floats(&fractions.map_to(|v| v * 0.3)), "the greatest of them 0.3"),
        (floats(&fractions.map_to(|v| v * 90.0)), "neither labels"),
        (Nii { data: value_bytes(4, false, 1), ..Nii::new() }, "holds values from -300 to 1163"),
    ] {
        let error = read(&bad).unwrap_err().to_string();
        assert!(error.contains(words) && error.contains("; "), "{words}: {error}");
    }
}

/// `map` of a slice.
trait MapTo {
    fn map_to(&self, f: impl Fn(f32) -> f32) -> Vec<f32>;
}

impl MapTo for Vec<f32> {
    fn map_to(&self, f: impl Fn(f32) -> f32) -> Vec<f32> {
        self.iter().map(|&v| f(v)).collect()
    }
}

#[test]
fn labels_that_are_one_as_floats_are_told_apart() {
    let (folder, image) = desk();
    let ids = [312_782_546_u32, 312_782_550, 312_782_554];
    assert!(ids.iter().all(|&id| id as f32 == ids[0] as f32));
    let data = (0..VOXELS).flat_map(|ix| ids[ix % 3].to_le_bytes()).collect();
    let path = folder.path("atlas.nii");
    Nii { scaling: [1.0, 0.0], data, ..Nii::with(768, 32, false) }.write(&path);
    for (ix, id) in ids.into_iter().enumerate() {
        let mask = read_mask(&path, &image, Some(f64::from(id))).unwrap();
        assert_eq!(mask.voxels, (0..VOXELS).map(|at| u8::from(at % 3 == ix)).collect::<Vec<_>>());
    }
    let error = read_mask(&path, &image, Some(312_782_547.0)).unwrap_err();
    assert!(error.to_string().contains("has no voxel of label 312782547"), "{error}");
}

#[test]
fn a_fourth_axis_of_one_is_dropped_and_a_longer_one_refused() {
    let (folder, image) = desk();
    let path = folder.path("mask.nii");
    Nii { dim: vec![7, 6, 5, 1], ..bytes(marked()) }.write(&path);
    assert_eq!(read_mask(&path, &image, None).unwrap().voxels, marked());
    Nii { dim: vec![7, 6, 5, 2], ..bytes([marked(), marked()].concat()) }.write(&path);
    let error = read_mask(&path, &image, None).unwrap_err().to_string();
    assert_eq!(
        error,
        check_mask(&path, &read_info(folder.path("head.nii")).unwrap()).unwrap_err().to_string()
    );
    // An option of the image's would not help.
    assert!(error.contains("4D with 2 volumes") && !error.contains("--volume"), "{error}");
}
