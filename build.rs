//! Packs the weights that are built into the program: they are most of its size.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

use flate2::Compression;
use flate2::write::ZlibEncoder;

fn main() {
    println!("cargo:rerun-if-changed=weights");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let mut models: Vec<PathBuf> = fs::read_dir(root.join("weights"))
        .expect("the folder of the weights is there")
        .map(|entry| entry.expect("it can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "safetensors"))
        .collect();
    models.sort();
    let mut list = "[\n".to_owned();
    for model in models {
        let name = model.file_stem().and_then(|name| name.to_str()).expect("models have plain names");
        let packed = out.join(format!("{name}.packed"));
        pack(&model, &packed);
        let card = model.with_extension("md");
        writeln!(
            list,
            "Packed {{ name: {name:?}, bytes: include_bytes!({packed:?}), card: include_str!({card:?}) }},"
        )
        .expect("text takes all");
    }
    list.push(']');
    fs::write(out.join("weights.rs"), list).expect("the build's folder can be written to");
}

/// The bytes at even places, then those at odd ones, compressed: the upper bytes of halves are like each other.
fn pack(model: &Path, packed: &Path) {
    let bytes = fs::read(model).expect("weights can be read");
    let half = |first: usize| bytes.iter().skip(first).step_by(2).copied();
    let parted: Vec<u8> = half(0).chain(half(1)).collect();
    let file = fs::File::create(packed).expect("the build's folder can be written to");
    let mut encoder = ZlibEncoder::new(file, Compression::best());
    encoder.write_all(&parted).and_then(|()| encoder.finish()).expect("the build's folder has room");
}
