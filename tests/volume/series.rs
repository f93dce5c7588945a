//! Series, read and written a volume at a time.

use std::fs;
use std::path::Path;

use crate::mgh::{Mgh, inflated};
use crate::nii::*;
use crate::peak_of;
use trephine::volume::Problem;
use trephine::volume::image::{Content, FrameChoice, NiftiType, VolumeWriter, Volumes, read, write_stripped};

/// Volume by volume, a series is read and written in the memory of one volume, and comes out as if it had been held whole.
#[test]
fn a_series_goes_volume_by_volume() {
    let dir = Folder::new();
    let edge = 64;
    let voxels = edge * edge * edge;
    let stream = |name: &str, out: &str| {
        let mut volumes = Volumes::open(dir.path(name)).unwrap();
        let count = volumes.info().frames;
        let mut writers = None;
        let mut info = None;
        for number in 0..count {
            let volume = volumes.next_volume().unwrap().expect("as many as the header says");
            let [brain, field] = writers.get_or_insert_with(|| {
                let begin =
                    |path, content| VolumeWriter::begin(dir.path(path), &volume, count, content).unwrap();
                [begin(out, Content::Stripped), begin("field.nii", Content::Floats)]
            });
            let keep: Vec<u8> = (0..voxels).map(|ix| u8::from(ix % (number + 2) == 0)).collect();
            brain.stripped(&volume, &keep, 0.0).unwrap();
            field.floats(&vec![number as f32; voxels]).unwrap();
            info = Some(volume.info().clone());
        }
        assert!(volumes.next_volume().unwrap().is_none());
        for writer in writers.expect("volumes came") {
            writer.finish(info.as_ref().expect("volumes came")).unwrap();
        }
        count
    };
    let mut state = 3_u32;
    let mut held = vec![];
    for frames in [2, 6] {
        let data: Vec<u8> = (0..2 * voxels * frames).map(|_| lcg(&mut state) & 31).collect();
        let dim = [edge, edge, edge, frames].map(|n| n as i64);
        let nii = Nii { dim: dim.into(), data: data.clone(), ..Nii::new() };
        let mgh = Mgh { dims: [edge, edge, edge, frames].map(|n| n as i32), data, ..Mgh::new(4, 1) };
        for (name, out, bytes) in [
            ("x.nii", "y.nii", nii.bytes()),
            ("x.nii.gz", "y.nii", gz(&nii.bytes())),
            ("x.nii.gz", "y.nii.gz", gz(&nii.bytes())),
            ("x.mgz", "y.mgh", gz(&mgh.bytes())),
            ("x.nii.gz", "y.mgz", gz(&nii.bytes())),
        ] {
            dir.put(name, &bytes);
            let (count, peak) = peak_of(|| stream(name, out));
            assert_eq!(count, frames);
            held.push(peak);
            let whole = read(dir.path(name), FrameChoice::All).unwrap();
            let keep: Vec<u8> =
                (0..voxels * frames).map(|ix| u8::from(ix % voxels % (ix / voxels + 2) == 0)).collect();
            write_stripped(dir.path(&format!("whole-{out}")), &whole, &keep, 0.0).unwrap();
            let [got, want] = [out.to_owned(), format!("whole-{out}")].map(|out| content(&dir.path(&out)));
            assert!(got == want, "{name} to {out}");
            let field = read(dir.path("field.nii"), FrameChoice::All).unwrap();
            assert_eq!(
                (field.frames(), field.frame_f32(frames - 1).unwrap().data[7]),
                (frames, frames as f32 - 1.0)
            );
        }
    }
    let (few, many) = held.split_at(held.len() / 2);
    for (few, many) in few.iter().zip(many) {
        // The compressor's pieces, some of them at once, grow with no number of volumes.
        assert!(*many < few + (1 << 20), "{few} bytes for 2 volumes, {many} for 6");
    }
}

fn content(path: &Path) -> Vec<u8> {
    let packed = path.extension().is_some_and(|extension| extension == "gz" || extension == "mgz");
    if packed { inflated(path) } else { fs::read(path).unwrap() }
}

/// What is unfinished leaves nothing, and what is missing or too much is no image.
#[test]
fn a_series_that_is_not_whole_leaves_nothing() {
    let dir = Folder::new();
    let frames = 3;
    let data = (0..VOXELS * frames).flat_map(|i| (i as i16).to_le_bytes()).collect();
    let nii = Nii { dim: vec![7, 6, 5, 3], data, ..Nii::new() };
    dir.put("x.nii.gz", &gz(&nii.bytes()));
    let cut = nii.bytes()[..352 + 2 * VOXELS + 11].to_vec();
    dir.put("cut.nii.gz", &gz(&cut));
    dir.put("cut.nii", &cut);
    let mut volumes = Volumes::open(dir.path("x.nii.gz")).unwrap();
    let first = volumes.next_volume().unwrap().expect("is there");
    let before = dir.names();
    let mut writer = VolumeWriter::begin(dir.path("m.nii.gz"), &first, frames, Content::Labels).unwrap();
    writer.labels(&[1; VOXELS]).unwrap();
    assert!(dir.names().len() > before.len());
    let error = writer.finish(first.info()).unwrap_err();
    assert!(matches!(error.problem, Problem::Length { got: VOXELS, .. }), "{error}");
    assert_eq!(dir.names(), before);
    // A file that ends early is refused before the first volume where its length tells, else at the volume that it lacks.
    let all = 2 * (VOXELS * frames) as u64;
    let error = Volumes::open(dir.path("cut.nii")).err().expect("is too short");
    assert!(matches!(error.problem, Problem::Truncated { needed, .. } if needed == all), "{error}");
    let mut volumes = Volumes::open(dir.path("cut.nii.gz")).unwrap();
    assert!(volumes.next_volume().unwrap().is_some());
    let error = volumes.next_volume().unwrap_err();
    let found = 2 * VOXELS as u64 + 11;
    assert!(
        matches!(error.problem, Problem::Truncated { needed, found: f } if (needed, f) == (all, found)),
        "{error}"
    );
}

/// What holds integers that MGH has no type for is looked through before the first volume is written.
#[test]
fn wide_integers_of_a_series_choose_one_type() {
    let dir = Folder::new();
    for (most, want) in
        [(1i64 << 24, NiftiType::Float32), (1 << 25, NiftiType::Int32), (1 << 40, NiftiType::Float32)]
    {
        let data: Vec<u8> = (0..VOXELS as i64 * 2)
            .flat_map(|i| if i == 2 * VOXELS as i64 - 1 { most } else { i }.to_le_bytes())
            .collect();
        let nii = Nii { dim: vec![7, 6, 5, 2], datatype: 1024, bits: 64, data, ..Nii::new() };
        dir.put("x.nii", &nii.bytes());
        let mut volumes = Volumes::open(dir.path("x.nii")).unwrap();
        let mut writer = None;
        while let Some(volume) = volumes.next_volume().unwrap() {
            let begin = || VolumeWriter::begin(dir.path("y.mgh"), &volume, 2, Content::Stripped).unwrap();
            writer.get_or_insert_with(begin).stripped(&volume, &[1; VOXELS], 0.0).unwrap();
        }
        writer.expect("volumes came").finish(volumes.info()).unwrap();
        let back = read(dir.path("y.mgh"), FrameChoice::All).unwrap();
        assert_eq!(back.datatype(), want);
        assert_eq!(back.frame_f32(1).unwrap().data[VOXELS - 1], most as f32);
    }
}
