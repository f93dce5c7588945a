//! The book's commands, run in the order of each chapter.
//!
//! A fenced block `console` holds commands after `$ ` and lines of what they print, which have to come in this order: numbers may
//! differ, and `...` stands for anything. `console fails` holds commands that end with an error, and `console example` what one
//! machine's adapter prints, of which a line's first word has to come. A `toml` block whose first line is `# NAME.toml` is the
//! file of that name, shortened to a step or two where it is a run's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::desk::{self, VOXEL_MM, head, mask, series, text, trephine};
use crate::nii::{Folder, Nii, gz};
use crate::program::has_gpu;

/// A fenced block of a chapter.
struct Block {
    kind: String,
    lines: Vec<String>,
}

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs")
}

fn blocks(chapter: &str) -> Vec<Block> {
    let chapter = fs::read_to_string(docs().join(chapter)).expect("the chapter is there");
    let mut blocks: Vec<Block> = vec![];
    let mut open = false;
    for line in chapter.lines() {
        match (line.strip_prefix("```"), open) {
            (Some(kind), false) => blocks.push(Block { kind: kind.to_owned(), lines: vec![] }),
            (None, true) => blocks.last_mut().expect("a block is open").lines.push(line.to_owned()),
            _ => {}
        }
        open ^= line.starts_with("```");
    }
    blocks
}

/// With every number as `#` and every run of spaces as one.
fn shape_of(line: &str) -> String {
    let mut shape = String::new();
    let mut last = ' ';
    for character in line.chars() {
        let number = character.is_ascii_digit() || (last == '#' && matches!(character, '.' | ',' | '-'));
        match (number, last) {
            (true, '#') => {}
            (true, _) => shape.push('#'),
            (false, ' ') if character == ' ' => {}
            _ => shape.push(character),
        }
        last = if number { '#' } else { character };
    }
    // A minus before a number is part of it, and one after it may be of the next word.
    shape.replace("-#", "#").trim().to_owned()
}

/// Checks that the lines of the book are printed in this order, each but for its numbers.
fn check_printed(command: &str, book: &[String], printed: &str) {
    let mut rest = printed.lines().map(shape_of);
    for line in book.iter().filter(|line| line.trim() != "...") {
        let want = shape_of(line);
        let (begin, open) = match want.strip_suffix("...") {
            Some(begin) => (begin.trim(), true),
            None => (&*want, false),
        };
        let found = rest.any(|got| if open { got.starts_with(begin) } else { got == begin });
        assert!(found, "`{command}` does not print\n{line}\nas `{want}`, but\n{printed}");
    }
}

/// The files that chapters speak of; commands make the others.
fn put_files(folder: &Folder) {
    folder.put("head.nii.gz", &gz(&head(1).bytes()));
    // As bytes: their voxels cannot hold every value.
    let small = Nii {
        datatype: 2,
        bits: 8,
        data: desk::head_values(2).iter().map(|v| (v / 4) as u8).collect(),
        ..head(2)
    };
    folder.put("small.nii.gz", &gz(&small.bytes()));
    folder.put("there/small_brain.nii.gz", &gz(&small.bytes()));
    let mut whole = small.bytes();
    whole.truncate(whole.len() / 2);
    folder.put("cut.nii.gz", &gz(&whole));
    folder.put("series.nii.gz", &gz(&series().bytes()));
    folder.put("empty.nii.gz", &gz(&Nii { data: vec![0; small.data.len()], ..small.clone() }.bytes()));
    let (plane, dim) =
        (desk::SHAPE[0] * desk::SHAPE[1], vec![desk::SHAPE[0] as i64, desk::SHAPE[1] as i64, 1]);
    folder.put("slice.nii.gz", &gz(&Nii { dim, data: small.data[..plane].to_vec(), ..small }.bytes()));
    let mut away = mask();
    away.srow[0][3] += 100.0 * VOXEL_MM;
    folder.put("elsewhere.nii.gz", &gz(&away.bytes()));
    // A label map: white matter, fluid, scalp.
    let labels = (0..desk::VOXELS).map(|ix| match desk::radius(ix) {
        r if r < 0.65 => 1_u8,
        r if r < 0.8 => 2,
        r if r < 1.0 => 3,
        _ => 0,
    });
    folder.put("map.nii.gz", &gz(&Nii { datatype: 2, bits: 8, data: labels.collect(), ..mask() }.bytes()));
    folder.put(
        "labels.toml",
        b"name = \"book\"\n[labels]\nbackground = [[0]]\nwhite = [[1]]\ncsf = [[2]]\nskin = [[3]]\n",
    );
    for sub in ["01", "02"] {
        let scan = gz(&head(sub.parse().expect("a number")).bytes());
        folder.put(&format!("heads/sub-{sub}_T1w.nii.gz"), &scan);
        folder.put(&format!("ds/sub-{sub}/anat/sub-{sub}_T1w.nii.gz"), &scan);
    }
    folder.put("ds/dataset_description.json", br#"{"Name": "two", "BIDSVersion": "1.9.0"}"#);
    for (seed, sub) in ["A014", "A015", "A033", "A034"].into_iter().enumerate() {
        let stem = format!("NFBS/{sub}/sub-{sub}_ses-NFB3_T1w");
        folder.put(&format!("{stem}.nii.gz"), &gz(&head(10 + seed as u32).bytes()));
        folder.put(&format!("{stem}_brainmask.nii.gz"), &gz(&mask().bytes()));
    }
}

/// A file named `trephine` that runs the program as tests do; its folder.
fn put_program(folder: &Folder) -> PathBuf {
    let command = trephine(&[]);
    let quoted =
        |text: &std::ffi::OsStr| format!("'{}'", text.to_str().expect("UTF-8").replace('\'', r"'\''"));
    let mut script = "#!/bin/sh\n".to_owned();
    for (name, value) in command.get_envs() {
        let value = value.map(quoted).unwrap_or_default();
        script += &format!("export {}={value}\n", name.to_str().expect("UTF-8"));
    }
    let before: Vec<String> =
        std::iter::once(command.get_program()).chain(command.get_args()).map(quoted).collect();
    // What follows the program there, as `--device`, holds for every command.
    let at = before.iter().position(|part| part.contains("trephine")).expect("the program is named");
    script += &format!("exec {} \"$@\" {}\n", before[..=at].join(" "), before[at + 1..].join(" "));
    folder.put("bin/trephine", script.as_bytes());
    let program = folder.path("bin/trephine");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("it is ours");
    }
    program.parent().expect("it lies in a folder").to_owned()
}

/// `text` with a run's length cut down.
fn shortened(text: &str) -> String {
    let of = |line: &str| match line.split(" = ").next() {
        Some("epochs") => "epochs = 1".to_owned(),
        Some("steps_per_epoch") => "steps_per_epoch = 1".to_owned(),
        _ => line.to_owned(),
    };
    text.lines().map(|line| of(line) + "\n").collect()
}

/// A command with the epochs that it asks for cut down to one more than [`shortened`] leaves.
fn shortened_run(command: &str) -> String {
    match command.split_once("--epochs ") {
        Some((before, after)) => {
            let rest = after.trim_start_matches(|c: char| c.is_ascii_digit());
            format!("{before}--epochs 2{rest}")
        }
        None => command.to_owned(),
    }
}

/// Runs the blocks of a chapter.
fn run_chapter(chapter: &str) {
    if !cfg!(unix) || !has_gpu() {
        return;
    }
    let folder = Folder::new();
    put_files(&folder);
    let path = format!("{}:{}", put_program(&folder).display(), std::env::var("PATH").unwrap_or_default());
    let mut ran = 0;
    for block in blocks(chapter) {
        let body = block.lines.join("\n") + "\n";
        if let ("toml", Some(name)) = (&*block.kind, block.lines.first().and_then(|l| l.strip_prefix("# "))) {
            folder.put(name, shortened(&body).as_bytes());
        }
        let (fails, example) = match &*block.kind {
            "console" => (false, false),
            "console example" => (false, true),
            "console fails" => (true, false),
            _ => continue,
        };
        for part in body.strip_prefix("$ ").expect("a block begins with a command").split("\n$ ") {
            let mut lines = part.lines().map(str::to_owned);
            let command = shortened_run(&lines.next().expect("it has a line"));
            let output = Command::new("sh")
                .args(["-c", &format!("{{ {command}\n}} 2>&1")])
                .current_dir(folder.path("."))
                .env("PATH", &path)
                .output()
                .expect("there is a shell");
            let printed = text(&output.stdout);
            assert_eq!(!output.status.success(), fails, "`{command}`: {:?}\n{printed}", output.status);
            let first_word = |line: String| match line.split_whitespace().next() {
                Some(word) if word != "..." => format!("{word} ..."),
                _ => line,
            };
            let book: Vec<String> = if example { lines.map(first_word).collect() } else { lines.collect() };
            check_printed(&command, &book, &printed);
            ran += 1;
        }
    }
    assert!(ran > 3, "{chapter}: {ran} commands");
}

#[test]
fn the_quick_start_does_what_it_says() {
    run_chapter("start.md");
}

#[test]
fn every_command_does_what_the_book_says() {
    run_chapter("commands.md");
}

#[test]
fn training_on_own_data_does_what_the_book_says() {
    run_chapter("own-data.md");
}

#[test]
fn errors_are_those_of_the_book() {
    run_chapter("troubleshooting.md");
}
