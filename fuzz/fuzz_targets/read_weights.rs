//! Any bytes as a weight file, ours or of PyTorch: an error with the file's name, or tensors as long as their shapes say.

#![no_main]

use libfuzzer_sys::fuzz_target;
use trephine::model::published::recognise;
use trephine::model::{Model, read_tensors};

fuzz_target!(|data: &[u8]| {
    match Model::from_bytes(data, "net") {
        Ok(model) => {
            // What is read can be written, and is then the same.
            let bytes = model.to_bytes(false).expect("serialises");
            let again = Model::from_bytes(&bytes, "again").expect("written by us");
            assert_eq!(again.tensors, model.tensors);
        }
        Err(error) => assert!(error.to_string().starts_with("net: ")),
    }
    if let Ok(tensors) = read_tensors(data, "net") {
        for (_, (shape, values)) in &tensors {
            assert_eq!(shape.iter().product::<usize>(), values.len());
        }
        let _ = recognise(&tensors, "net");
    }
});
