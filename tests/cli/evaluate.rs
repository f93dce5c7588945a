//! Scores.

use std::fs;

use crate::desk::{Desk, json_of_failure, mask, run, text};
use crate::nii::gz;
use crate::program::has_gpu;

#[test]
fn models_are_evaluated() {
    if !has_gpu() {
        return;
    }
    let desk = Desk::new();
    desk.folder.put("mask.nii.gz", &gz(&mask().bytes()));
    let mut away = mask();
    away.srow[2][3] += 500.0;
    desk.folder.put("wrong.nii.gz", &gz(&away.bytes()));
    let table = "image\tmask\tcontrast\tage\n\
                 head.nii.gz\tmask.nii.gz\tT1w\t30\n\
                 head.nii.gz\twrong.nii.gz\tT1w\t31\n\
                 head.nii.gz\tmask.nii.gz\tT2w\t32\n\
                 head.nii.gz\t\tT2w\t33\n";
    desk.folder.put("pairs.tsv", table.as_bytes());
    let (pairs, tiny, scores) =
        (desk.path("pairs.tsv"), desk.path("tiny.safetensors"), desk.path("scores.csv"));
    let figure = desk.path("scores.png");
    let arguments = ["evaluate", "--data", &pairs, "--model", &tiny, "--csv", &scores, "--figure", &figure];
    let output = run(&arguments);
    let [out, err] = [text(&output.stdout), text(&output.stderr)];
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(
        err.contains("wrong.nii.gz: lies nowhere in its image") && err.contains("1 images have no mask"),
        "{err}"
    );
    let table = out.lines().filter(|line| !line.starts_with("look at ")).count();
    assert_eq!(table, 1 + 2 + 6, "{out}");
    assert!(out.contains("median of 2, all") && out.contains("worst of 1, T2w"), "{out}");
    assert!(fs::read(&figure).expect("written").starts_with(b"\x89PNG"));
    let csv = fs::read_to_string(&scores).expect("written");
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(
        lines[0],
        "image,dice,iou,hd95_mm,assd_mm,volume_error_percent,seconds,warnings,error,contrast,age"
    );
    assert_eq!(lines.len(), 4);
    assert!(lines[1].ends_with(",,T1w,30") && lines[2].ends_with("T1w,31") && lines[3].ends_with(",,T2w,32"));
    let dice: f64 = lines[1].split(',').nth(1).and_then(|v| v.parse().ok()).expect("a number");
    assert!((0.0..=1.0).contains(&dice));
    let evaluated = json_of_failure(&arguments);
    assert_eq!(evaluated["summary"][0]["median"]["dice"].as_f64(), Some(dice));
}
