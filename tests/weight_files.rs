//! Weights as others store them: PyTorch's formats, pickles that ask for more than tensors, and networks that nobody knows.

use std::io::Write;
use std::path::Path;

use trephine::model::published::{self, PACKAGES, recognise, take_described};
use trephine::model::{
    AxisCodes, NamedTensors, WeightFile, builtin_card, builtin_names, initialise, load, read_tensors,
};

fn fixture(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A file as PyTorch writes it, of this pickle.
fn zipped(pickle: &[u8]) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, content) in [("net/data.pkl", pickle), ("net/byteorder", b"little"), ("net/data/0", &[0; 32])]
    {
        archive.start_file(name, zip::write::SimpleFileOptions::default()).expect("begins");
        archive.write_all(content).expect("writes");
    }
    archive.finish().expect("ends").into_inner()
}

fn refused(pickle: &[u8]) -> String {
    read_tensors(&zipped(pickle), "net.pt").expect_err("is refused").to_string()
}

#[test]
fn pytorchs_formats_hold_the_same_tensors() {
    let want = read_tensors(&fixture("torch_files.safetensors"), "want").expect("reads");
    assert_eq!(want.len(), 3);
    for (file, prefix) in [
        ("torch_zip.pt", "model_state_dict."),
        ("torch_old.pt", "model_state_dict."),
        ("torch_script.pt", ""),
    ] {
        let got = read_tensors(&fixture(file), file).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(got.len(), want.len(), "{file}: {got:?}");
        for (name, tensor) in &want {
            let found = got.iter().find(|(other, _)| *other == format!("{prefix}{name}"));
            assert_eq!(found.map(|(_, tensor)| tensor), Some(tensor), "{file}: {name}");
        }
    }
}

#[test]
fn built_in_models_have_cards_and_fast_is_default_in_one_pass() {
    assert_eq!(builtin_names(), ["article", "default", "fast"]);
    for name in builtin_names() {
        let model = load(name).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(model.description.name, name);
        assert!(builtin_card(name).is_some_and(|card| card.starts_with(&format!("# Model card: `{name}`"))));
    }
    let [default, fast] = ["default", "fast"].map(|name| WeightFile::open(name).expect("it is built in"));
    assert_ne!(default.sha256(), fast.sha256());
    let [default, fast] = [default, fast].map(|file| file.model().expect("it is a model"));
    assert!(default.tensors == fast.tensors);
    assert!(default.description.input.mirror && !fast.description.input.mirror);
    assert_eq!(default.card.licence, fast.card.licence);
    assert_ne!(default.card.figures, fast.card.figures);
}

#[test]
fn a_pickle_that_would_run_something_is_refused_by_name() {
    for (module, name) in
        [("os", "system"), ("builtins", "eval"), ("torch", "load"), ("collections", "Counter")]
    {
        let pickle =
            [b"\x80\x02c", module.as_bytes(), b"\n", name.as_bytes(), b"\nX\x04\0\0\0echo\x85R."].concat();
        let error = refused(&pickle);
        assert!(error.starts_with(&format!("net.pt: asks for Python's '{module}.{name}'")), "{error}");
        let in_stack = [
            &[0x80, 4, 0x8c, module.len() as u8],
            module.as_bytes(),
            &[0x8c, name.len() as u8],
            name.as_bytes(),
            b"\x93)R.",
        ]
        .concat();
        assert!(refused(&in_stack).contains(&format!("'{module}.{name}'")));
    }
    // Known names that are called in ways of no file, instances by class name, and extensions.
    assert!(refused(b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.").contains("arguments"));
    assert!(refused(b"\x80\x02(i__main__\nEvil\n.").contains("0x69"));
    assert!(refused(b"\x80\x02\x82\x01.").contains("0x82"));
}

#[test]
fn malformed_pickles_are_errors() {
    for (pickle, words) in [
        (&b""[..], "ends in the middle"),
        (b"\x80\x02", "ends in the middle"),
        (b"\x80\x02.", "empty stack"),
        (b"\x80\x02h\x07.", "recalls value 7"),
        (b"\x80\x02t.", "lacks a mark"),
        (b"\x80\x09N.", "unknown version"),
        (b"\x80\x02X\xff\xff\xff\xffab.", "ends in the middle"),
        (b"\x80\x02NNs.", "empty stack"),
        (b"\x80\x02NNNs.", "sets an entry of nothing"),
        (b"\x80\x02K\x01Q.", "persistent identifier"),
    ] {
        assert!(refused(pickle).contains(words), "{pickle:?}: {}", refused(pickle));
    }
    // A tensor that reaches beyond its storage, one that repeats a value without end, a dictionary within itself.
    let tensor = |offset: &[u8], shape: &[u8], strides: &[u8]| {
        let storage = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x08tQ";
        [
            b"\x80\x02}X\x01\0\0\0wctorch._utils\n_rebuild_tensor_v2\n(",
            &storage[..],
            offset,
            shape,
            strides,
            b"\x89}tRs.",
        ]
        .concat()
    };
    let good = read_tensors(&zipped(&tensor(b"K\x02", b"K\x06\x85", b"K\x01\x85")), "net.pt").expect("reads");
    assert_eq!(good, [("w".to_owned(), (vec![6], vec![0.0; 6]))]);
    for bad in [
        tensor(b"K\x03", b"K\x06\x85", b"K\x01\x85"),
        tensor(b"K\x00", b"J\xff\xff\xff\x7f\x85", b"K\x00\x85"),
        tensor(b"K\x00", b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x87", b"K\x01K\x01K\x01\x87"),
    ] {
        assert!(refused(&bad).contains("too few values for tensor 'w'"));
    }
    assert!(refused(&tensor(b"J\xff\xff\xff\xff", b"K\x06\x85", b"K\x01\x85")).contains("-1"));
    let within_itself = b"\x80\x02}q\x00X\x01\0\0\0ah\x00s.";
    assert_eq!(read_tensors(&zipped(within_itself), "net.pt").expect("reads"), NamedTensors::new());
}

#[test]
fn values_may_nest_as_deep_as_a_file_has_bytes() {
    let list_in_list = b"]q\x00]h\x00aq\x00".repeat(200_000);
    for pickle in [
        [&b"\x80\x02"[..], &b"]".repeat(500_000), &b"a".repeat(499_999), b"."].concat(),
        [b"\x80\x02N", &b"\x85".repeat(900_000)[..], b"."].concat(),
        [b"\x80\x02", &list_in_list[..], b"."].concat(),
    ] {
        assert_eq!(read_tensors(&zipped(&pickle), "net.pt").expect("reads"), NamedTensors::new());
    }
    // A list that holds another twice, forty times over.
    let doubled = [
        b"\x80\x02]",
        &b"q\x00]h\x00ah\x00a".repeat(40)[..],
        b"q\x00}(X\x0f\0\0\0network_weights}X\x09\0\0\0init_argsh\x00u.",
    ];
    let error = published::nnunet::of_checkpoint(&zipped(&doubled.concat()), "net.pt", AxisCodes::RAS);
    assert!(error.expect_err("is too much").to_string().contains("says more"));
}

#[test]
fn damaged_files_are_errors_at_any_length() {
    for file in ["torch_zip.pt", "torch_old.pt"] {
        let whole = fixture(file);
        for n in 0..whole.len() {
            if let Ok(tensors) = read_tensors(&whole[..n], file) {
                panic!("{file}: {} tensors in {n} of {} bytes", tensors.len(), whole.len());
            }
        }
        // What is changed either shows or changes a number.
        for ix in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[ix] ^= 0x55;
            let _ = read_tensors(&damaged, file);
        }
    }
}

/// What a file with the weights of a network would hold, behind a prefix.
fn file_of(description: &trephine::model::Description, prefix: &str) -> NamedTensors {
    let tensors = initialise(description, 1).expect("initialises");
    tensors.into_iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor)).collect()
}

#[test]
fn published_networks_are_recognised_by_their_tensors_alone() {
    let synthstrip = published::synthstrip(16);
    let mut file = file_of(&synthstrip, "model_state_dict.");
    file.push(("optimizer.step".into(), (vec![1], vec![3.0])));
    let model = recognise(&file, "synthstrip.1.pt").expect("is one");
    assert_eq!(model.description, synthstrip);
    assert_eq!(model.tensors, initialise(&synthstrip, 1).expect("initialises"));

    // What PyTorch keeps beside norms, and heads for training, change nothing; any other tensor does.
    let mut file = file_of(&published::hd_bet(21), "");
    file.push(("context1.bn_1.running_mean".into(), (vec![21], vec![0.0; 21])));
    file.push(("loc2_seg.weight".into(), (vec![2, 84, 1, 1, 1], vec![0.0; 168])));
    assert_eq!(recognise(&file, "0.model").expect("is one").description, published::hd_bet(21));
    file.push(("attention.weight".into(), (vec![1], vec![0.0])));
    let error = recognise(&file, "0.model").expect_err("is another").to_string();
    assert!(error.contains("hd-bet comes closest, but no layer of it uses 'attention.weight'"), "{error}");

    let mut file = file_of(&published::mindgrab(15, 5), "");
    file[3].1 = (vec![2, 2], vec![0.0; 4]);
    let error = recognise(&file, "model.pth").expect_err("is another").to_string();
    assert!(
        error.starts_with("model.pth: holds 27 tensors") && error.contains("has shape [2, 2]"),
        "{error}"
    );
    let error = recognise(&Vec::new(), "empty.pt").expect_err("is nothing").to_string();
    assert!(error.contains("no tensor of floating-point numbers"), "{error}");

    let error =
        recognise(&file_of(&published::deepbet(16), ""), "model.pt").expect_err("is half").to_string();
    assert!(error.contains("`trephine model fetch deepbet`"), "{error}");

    let small = published::mindgrab(4, 1);
    assert_eq!(
        take_described(&file_of(&small, "net."), &small, "own.pt").expect("fits"),
        initialise(&small, 1).expect("initialises")
    );
    let error =
        take_described(&file_of(&small, ""), &published::mindgrab(4, 2), "own.pt").expect_err("differs");
    assert!(error.to_string().starts_with("own.pt: "), "{error}");
}

#[test]
fn a_package_of_other_bytes_is_refused() {
    for package in &PACKAGES {
        let error = package.unpack(b"PK", "other.whl").expect_err("is refused").to_string();
        assert!(error.starts_with("other.whl: is not") && error.contains("SHA-256"), "{error}");
    }
}

#[test]
fn what_a_network_costs_is_told_and_drawn() {
    use trephine::model::{Model, ModelCard, Outline, drawing, initialise, published};
    let of = |description: trephine::model::Description| {
        let tensors = initialise(&description, 0).expect("initialises");
        Model { description, tensors, card: ModelCard::default() }
    };
    let mut network = published::hd_bet(4);
    network.input.shape = [32, 48, 16];
    let mut model = of(network);
    let outline = Outline::of(&model, None).expect("fits");
    assert_eq!(outline.shape, [32, 48, 16]);
    // 27 taps, 1 channel to 4, a multiplication and an addition each.
    let first = &outline.layers[0];
    assert_eq!((first.op.as_str(), first.shape, first.parameters), ("conv3d", [4, 32, 48, 16], 4 * 27 + 4));
    let macs = (27 * 4 * 32 * 48 * 16) as f64;
    assert!((first.flops / macs - 2.0).abs() < 0.1, "{}", first.flops / macs);
    let larger = Outline::of(&model, Some([64, 48, 16])).expect("fits");
    assert!((larger.flops / outline.flops - 2.0).abs() < 0.01 && larger.bytes > outline.bytes);
    model.add_fold(model.tensors.clone());
    assert!((Outline::of(&model, None).expect("fits").flops / outline.flops - 2.0).abs() < 1e-9);
    assert!(Outline::of(&model, Some([31, 48, 16])).is_err());

    let svg = drawing("a<b", &outline);
    assert!(svg.starts_with("<svg ") && svg.contains("a&lt;b") && !svg.contains("a<b"));
    assert_eq!(svg.matches("<rect x=").count(), outline.layers.len() + 1);
    let read: usize = outline.layers.iter().map(|layer| layer.inputs.len()).sum();
    assert_eq!(svg.matches("<path ").count(), read);
}
