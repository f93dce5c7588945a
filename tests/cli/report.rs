//! The page to look a batch through, in a browser where there is one.

use std::fs;
use std::path::Path;
use std::process::Command;

use image::RgbImage;
use serde_json::{Value, json};

use crate::desk::{fail, json as run_json, succeed, text};
use crate::nii::Folder;

/// Heads of the page.
const HEADS: usize = 500;

/// A batch's report of [`HEADS`] heads: volumes round 1450 mL, three of them apart, one head failed, one doubtful, one with a
/// warning; pictures of the first ten.
fn batch(folder: &Path) {
    let heads: Vec<Value> = (0..HEADS)
        .map(|n| {
            let stem = format!("sub-{n:03}");
            let path = format!("data/{stem}/{stem}_T1w.nii.gz");
            if n == 123 {
                return json!({
                    "path": path, "status": "failed", "brain_ml": null, "score": null, "seconds": { "read": 0.1 },
                    "signals": null, "warnings": [], "error": format!("{path}: is truncated; copy it again"),
                    "outputs": null,
                });
            }
            let ml = match n {
                7 => 640.0,
                8 => 2400.0,
                9 => 2390.0,
                _ => 1450.0 + ((n * 7919) % 301) as f64 - 150.0,
            };
            let warnings = if n == 42 { vec!["the mask <touches> the \"upper\" face & more"] } else { vec![] };
            if n < 10 {
                fs::create_dir_all(folder.join(&stem)).expect("made");
                RgbImage::from_fn(160, 120, |x, y| image::Rgb([x as u8, y as u8, n as u8 * 20]))
                    .save(folder.join(&stem).join("a #1_qc.png"))
                    .expect("written");
            }
            let picture = (n < 10).then(|| format!("{stem}/a #1_qc.png"));
            json!({
                "path": path, "status": "ok", "brain_ml": ml, "score": if n == 77 { 0.21 } else { 0.93 },
                "seconds": { "read": 0.1, "network": 1.0 }, "peak_memory_mb": 412.0, "signals": null,
                "warnings": warnings, "error": null,
                "outputs": { "mask": format!("{stem}/a_mask.nii.gz"), "qc": picture },
                "made": { "version": "0.1.0", "model": "default", "model_sha256": "0123456789abcdef", "settings": {},
                          "options": {} },
            })
        })
        .collect();
    let report = json!({ "trephine": "0.1.0", "heads": heads, "left": [] });
    fs::write(folder.join("report.json"), report.to_string()).expect("written");
}

/// What a person does on the page; what comes of it is left on the page as JSON.
const VISIT: &str = r##"
<script>
(async () => {
  const seen = {};
  const rows = () => [...document.querySelectorAll("#rows tr")].map((row) => row.dataset.path);
  const click = (selector) => document.querySelector(selector).click();
  const press = (key) => document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  const sort = (name) => [...document.querySelectorAll("#heads button")].find((b) => b.textContent.startsWith(name)).click();
  const set = (id, value, event) => {
    const node = document.getElementById(id);
    node.value = value;
    node.dispatchEvent(new Event(event));
  };
  const shown = () => document.getElementById("shown").textContent;
  const blobs = [];
  const create = URL.createObjectURL;
  URL.createObjectURL = (blob) => { blobs.push(blob); return create.call(URL, blob); };
  try {
    seen.first = rows().slice(0, 7);
    seen.reasons = [...document.querySelectorAll("#rows tr")].slice(0, 7).map((row) => row.cells[4].textContent);
    seen.counts = document.getElementById("counts").textContent;
    seen.bars = document.querySelectorAll("#histogram rect.hit").length;
    seen.far = document.querySelectorAll("#histogram rect.far").length;
    sort("mL");
    seen.smallest = rows()[0];
    sort("mL");
    seen.largest = rows().slice(0, 2);
    seen.last = rows().at(-1);
    seen.aria = document.querySelectorAll("#heads th")[2].getAttribute("aria-sort");
    sort("head");
    seen.byName = rows()[0];
    set("find", "SUB-04 touches", "input");
    seen.found = rows();
    set("find", "", "input");
    set("show", "failed", "change");
    seen.failed = rows();
    set("show", "suspect", "change");
    seen.suspect = shown();
    set("show", "all", "change");
    [...document.querySelectorAll("#histogram rect.hit")].at(-1).dispatchEvent(new MouseEvent("click", { bubbles: true }));
    seen.bin = rows();
    [...document.querySelectorAll("#histogram rect.hit")].at(-1).dispatchEvent(new MouseEvent("click", { bubbles: true }));
    seen.all = shown();
    sort("look at");
    document.querySelector("#rows tr").click();
    press("g");
    press("b");
    press("j");
    press("k");
    seen.here = document.getElementById("name").textContent;
    set("note", "left\ttemporal pole", "change");
    press("n");
    seen.next = document.getElementById("name").textContent;
    document.querySelectorAll("#rows tr")[5].click();
    seen.remarks = document.getElementById("remarks").textContent;
    set("show", "bad", "change");
    seen.bad = rows();
    set("show", "all", "change");
    press("s");
    seen.saved = await blobs[0].text();
    const again = document.querySelector("#rows tr");
    again.click();
    press("u");
    seen.marked = document.getElementById("counts").textContent;
    const file = new File([seen.saved.replace("\tgood\t", "\tbad\t")], "marks.tsv");
    const transfer = new DataTransfer();
    transfer.items.add(file);
    document.getElementById("load").files = transfer.files;
    document.getElementById("load").dispatchEvent(new Event("change"));
    // The page reads the file at its own pace.
    for (let tries = 0; tries < 100 && document.getElementById("counts").textContent === seen.marked; tries += 1) {
      await file.text();
    }
    seen.loaded = document.getElementById("counts").textContent;
    seen.kept = Object.keys(localStorage).filter((key) => key.startsWith("trephine-marks-")).length;
    const with_picture = [...document.querySelectorAll("#rows tr")].find((row) => row.dataset.path.includes("sub-003/"));
    with_picture.click();
    const picture = document.getElementById("picture");
    await picture.decode();
    seen.picture = [picture.naturalWidth, decodeURI(picture.src.split("/").slice(-2).join("/"))];
    seen.thumbs = document.querySelectorAll("#rows img").length;
  } catch (error) {
    seen.error = String(error && error.stack);
  }
  document.body.replaceChildren();
  const result = document.createElement("pre");
  result.id = "result";
  result.textContent = "BEGIN" + JSON.stringify(seen) + "END";
  document.body.append(result);
})();
</script>
"##;

/// A browser without a window; `None`, and a word, where there is none.
fn browser() -> Option<String> {
    let names = std::env::var("TREPHINE_CHROMIUM").into_iter();
    let names = names.chain(["chromium", "chromium-browser", "google-chrome", "chrome"].map(str::to_owned));
    let found = names.into_iter().find(|name| Command::new(name).arg("--version").output().is_ok());
    if found.is_none() {
        eprintln!("SKIPPED: no Chromium to look at the page with");
    }
    found
}

#[test]
fn a_page_is_sorted_filtered_marked_and_saved() {
    let folder = Folder::new();
    let out = folder.path("out");
    fs::create_dir_all(&out).expect("made");
    batch(&out);
    let [stdout, err] = succeed(&["report", out.to_str().expect("UTF-8")]);
    assert!(stdout.contains("report.html: 500 heads, 1 failed") && err.is_empty(), "{stdout}{err}");
    let page = fs::read_to_string(out.join("report.html")).expect("written");
    let Some(browser) = browser() else { return };
    let visit = out.join("visit.html");
    fs::write(&visit, page.replace("</body>", &format!("{VISIT}</body>"))).expect("written");
    let output = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000", "--dump-dom"])
        .arg(format!("--user-data-dir={}", folder.path("profile").display()))
        .arg(format!("file://{}", visit.display()))
        .output()
        .expect("starts");
    let dom = text(&output.stdout);
    let seen = dom.split_once("BEGIN").and_then(|(_, rest)| rest.split_once("END")).map(|(seen, _)| seen);
    let seen = seen
        .unwrap_or_else(|| panic!("no result: {}\n{}", text(&output.stderr), &dom[..dom.len().min(3000)]));
    let seen = seen.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
    let seen: Value = serde_json::from_str(&seen).expect("JSON");
    assert_eq!(seen["error"], Value::Null, "{seen}");
    let path = |n: usize| format!("data/sub-{n:03}/sub-{n:03}_T1w.nii.gz");
    let paths = |all: &[usize]| json!(all.iter().map(|&n| path(n)).collect::<Vec<_>>());
    // The failed one, the doubtful score or the volumes apart, the warning; then the rest.
    assert_eq!(seen["first"][0], path(123));
    let mut suspects: Vec<String> = seen["first"].as_array().expect("rows")[..6]
        .iter()
        .map(|v| v.as_str().expect("text").to_owned())
        .collect();
    suspects.sort();
    assert_eq!(json!(suspects), paths(&[7, 8, 9, 42, 77, 123]));
    assert!(seen["reasons"].to_string().contains("below the median of 14"), "{}", seen["reasons"]);
    assert_eq!(seen["reasons"][6], "");
    let counts = seen["counts"].as_str().expect("text");
    assert!(counts.starts_with("500 heads \u{b7} 1 failed \u{b7} 6 with a reason to look"), "{counts}");
    assert!(seen["bars"].as_u64().is_some_and(|n| n >= 10) && seen["far"].as_u64().is_some_and(|n| n >= 2));
    assert_eq!(seen["smallest"], path(7));
    assert_eq!(seen["largest"], paths(&[8, 9]));
    assert_eq!((&seen["last"], &seen["aria"]), (&path(123).into(), &"descending".into()));
    assert_eq!(seen["byName"], path(0));
    assert_eq!(seen["found"], paths(&[42]));
    assert_eq!(seen["failed"], paths(&[123]));
    assert_eq!((&seen["suspect"], &seen["all"]), (&"6 of 500".into(), &"500 of 500".into()));
    let mut in_bin: Vec<Value> = seen["bin"].as_array().expect("rows").clone();
    in_bin.sort_by_key(ToString::to_string);
    assert_eq!(json!(in_bin), paths(&[8, 9]));
    // g on the first, b on the second, forth and back: the third, then the next without a mark.
    assert_eq!(
        seen["here"],
        Path::new(seen["first"][2].as_str().expect("text")).file_name().unwrap().to_str().unwrap()
    );
    assert_eq!(
        seen["next"],
        Path::new(seen["first"][3].as_str().expect("text")).file_name().unwrap().to_str().unwrap()
    );
    assert_eq!(seen["remarks"], "the mask <touches> the \"upper\" face & more");
    assert_eq!(seen["bad"], json!([seen["first"][1]]));
    let saved = seen["saved"].as_str().expect("text");
    let lines: Vec<Vec<&str>> = saved.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!(lines[0], ["path", "mark", "note", "status", "brain_ml", "score"]);
    assert!(lines.len() == HEADS + 1 && lines.iter().all(|cells| cells.len() == 6));
    let cells = |place: usize| {
        let path = seen["first"][place].as_str().expect("text");
        lines.iter().find(|cells| cells[0] == path).expect("a row")[1..3].to_vec()
    };
    assert_eq!(
        (cells(0), cells(1), cells(2)),
        (vec!["good", ""], vec!["bad", ""], vec!["", "left temporal pole"])
    );
    assert!(
        seen["marked"].as_str().expect("text").contains("0 marked good \u{b7} 1 marked bad"),
        "{}",
        seen["marked"]
    );
    assert!(
        seen["loaded"].as_str().expect("text").contains("0 marked good \u{b7} 2 marked bad"),
        "{}",
        seen["loaded"]
    );
    assert_eq!(seen["kept"], 1);
    assert_eq!(seen["picture"], json!([160, "sub-003/a%20%231_qc.png".replace("%20", " ")]));
    assert_eq!(seen["thumbs"], 10);
}

#[test]
fn a_folder_without_a_report_says_so() {
    let folder = Folder::new();
    let out = folder.path("out");
    fs::create_dir_all(&out).expect("made");
    let out = out.to_str().expect("UTF-8");
    let err = fail(1, &["report", out]);
    assert!(err.contains("out: holds no report.json; name the folder of a batch"), "{err}");
    assert!(fail(1, &["report", &format!("{out}/none")]).contains("none: is no folder"));
    batch(Path::new(out));
    fs::remove_file(Path::new(out).join("sub-004/a #1_qc.png")).expect("was there");
    fs::write(Path::new(out).join("sub-005/a #1_qc.png"), b"no picture").expect("written");
    let page = folder.path("elsewhere.html");
    let done = run_json(&["report", out, "-o", page.to_str().expect("UTF-8")]);
    let warnings = done["warnings"].to_string();
    assert!(warnings.contains("sub-004/a #1_qc.png: cannot be opened"), "{warnings}");
    assert!(warnings.contains("sub-005/a #1_qc.png: is no PNG file"), "{warnings}");
    assert!(fs::read_to_string(page).expect("written").contains("out/sub-003/a%20%231_qc.png"));
}
