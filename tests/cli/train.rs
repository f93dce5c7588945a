//! Training runs.

use crate::desk::{Desk, fail, mask};
use crate::nii::gz;

#[test]
fn training_looks_at_its_input_first() {
    let desk = Desk::new();
    let mut away = mask();
    away.srow[2][3] += 500.0;
    desk.folder.put("wrong.nii.gz", &gz(&away.bytes()));
    desk.folder.put("wrong.tsv", b"image\tmask\nhead.nii.gz\twrong.nii.gz\n");
    desk.folder.put("none.tsv", b"image\tmask\nhead.nii.gz\t\n");
    desk.folder.put("columns.tsv", b"scan\tlabel\nhead.nii.gz\t\n");
    desk.folder.put("run.toml", b"epochs = 2\nlearning_rat = 3\n");
    let out = desk.path("run");
    let before = desk.folder.names();
    let cases = [
        (
            "wrong.nii.gz",
            "wrong.tsv",
            "lies nowhere in its image (44x46x40 voxels of 2.8x2.8x2.8 mm, LAS, where the image has 44x46x40",
            None,
        ),
        ("none.tsv", "none.tsv", "names no image with a mask", None),
        ("columns.tsv", "columns.tsv", "has no column `image`", None),
        ("missing.tsv", "missing.tsv", "does not exist", None),
        ("run.toml", "wrong.tsv", "unknown field", Some("run.toml")),
    ];
    for (blamed, table, words, config) in cases {
        let (table, config) = (desk.path(table), config.map(|name| desk.path(name)));
        let mut arguments = vec!["train", "--data", &table, "--out", &out];
        arguments.extend(config.iter().flat_map(|path| ["--config", path]));
        let err = fail(1, &arguments);
        assert!(err.starts_with(&format!("error: {}: ", desk.path(blamed))) && err.contains(words), "{err}");
        assert_eq!(err.lines().count(), 1, "{err}");
        assert_eq!(desk.folder.names(), before);
    }
    let err = fail(1, &["train", "--data", &desk.path("wrong.tsv"), "--out", &out, "--resume"]);
    assert!(err.starts_with(&format!("error: {out}/checkpoint.safetensors: cannot be read")), "{err}");
}
