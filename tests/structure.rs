//! The house rules that the compiler does not know: layers, who may print, shaders without traps, and documents
//! that follow the code.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use trephine::ops::OPS;

/// Each layer with the layers that it may use; see ARCHITECTURE.md.
const LAYERS: [(&str, &[&str]); 8] = [
    ("tensor", &[]),
    ("volume", &[]),
    ("gpu", &["tensor"]),
    ("ops", &["gpu", "tensor"]),
    ("graph", &["ops", "gpu", "tensor"]),
    ("model", &["graph", "ops", "gpu", "tensor"]),
    ("pipeline", &["model", "graph", "ops", "gpu", "tensor", "volume"]),
    ("cli", &["pipeline", "model", "graph", "ops", "gpu", "tensor", "volume"]),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Files below `folder` with this extension: path from the repository's root, with `/`, and content.
fn files(folder: &str, extension: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the repository") {
            let path: PathBuf = entry.expect("readable").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == extension) {
                let name = path.strip_prefix(root()).expect("below the root").to_string_lossy();
                let name = name.replace(std::path::MAIN_SEPARATOR, "/");
                found.insert(name, fs::read_to_string(&path).expect("text"));
            }
        }
    }
    assert!(!found.is_empty(), "no .{extension} file below {folder}");
    found
}

/// Source without comments, line by line.
fn code(source: &str) -> String {
    let mut code = String::with_capacity(source.len());
    for line in source.lines() {
        let line = if line.trim_start().starts_with("//") { "" } else { line };
        code.push_str(line.split(" // ").next().unwrap_or_default());
        code.push('\n');
    }
    code
}

/// Source without comments and without the unit tests, which stand last in a file.
fn code_without_tests(source: &str) -> String {
    code(source).split("#[cfg(test)]").next().unwrap_or_default().to_owned()
}

/// The layer of a file of `src/`; `None` for `lib.rs` and `main.rs`, which stand above all.
fn layer_of(file: &str) -> Option<&str> {
    let inner = file.strip_prefix("src/")?;
    match inner.split_once('/') {
        Some((layer, _)) => Some(layer),
        None => inner.strip_suffix(".rs").filter(|name| !["lib", "main"].contains(name)),
    }
}

/// Leading identifier of a piece of source.
fn identifier(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    &text[..end]
}

/// First segments of every path that starts at the crate's root: `crate::a::b`, `crate::{a::b, c}`, and
/// `super::` chains that reach a layer.
fn uses(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let Some(group) = rest.strip_prefix('{') else {
            found.push(identifier(rest).to_owned());
            continue;
        };
        let (mut depth, mut starts) = (0, true);
        for (ix, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => starts = true,
                c if starts && !c.is_whitespace() => {
                    found.push(identifier(&group[ix..]).to_owned());
                    starts = false;
                }
                _ => {}
            }
        }
    }
    for (at, _) in code.match_indices("super::") {
        let name = identifier(&code[at + "super::".len()..]);
        if LAYERS.iter().any(|(layer, _)| *layer == name) {
            found.push(name.to_owned());
        }
    }
    found
}

fn report(breaches: &[String]) {
    assert!(breaches.is_empty(), "{} breaches:\n{}", breaches.len(), breaches.join("\n"));
}

#[test]
fn arrows_between_layers_point_down_only() {
    let mut breaches = Vec::new();
    for (file, source) in files("src", "rs") {
        let Some(layer) = layer_of(&file) else { continue };
        let Some((_, below)) = LAYERS.iter().find(|(name, _)| *name == layer) else {
            breaches.push(format!("{file}: layer '{layer}' is not in the table of this test"));
            continue;
        };
        for name in uses(&code(&source)) {
            if name != layer && !below.contains(&name.as_str()) {
                breaches.push(format!("{file}: {layer} uses {name}, which does not lie below it"));
            }
        }
    }
    report(&breaches);
}

#[test]
fn grouped_and_relative_paths_are_seen() {
    let code =
        "use crate::{gpu::{Caps, Gpu}, ops};\nuse super::super::graph::Graph;\nlet x = crate::tensor::y();";
    assert_eq!(uses(code), ["gpu", "ops", "tensor", "graph"]);
}

#[test]
fn only_gpu_names_wgpu_and_only_cli_prints() {
    let mut breaches = Vec::new();
    for (file, source) in files("src", "rs") {
        let layer = layer_of(&file).unwrap_or("main");
        let code = code_without_tests(&source);
        let mut forbid = |allowed: &[&str], words: &[&str], rule: &str| {
            if allowed.contains(&layer) {
                return;
            }
            for (ix, line) in code.lines().enumerate() {
                if words.iter().any(|word| line.contains(word)) {
                    breaches.push(format!("{file}:{}: {rule}: {}", ix + 1, line.trim()));
                }
            }
        };
        forbid(&["gpu"], &["wgpu"], "only gpu/ names wgpu");
        let printing = ["print!(", "println!(", "dbg!(", "io::stdout", "io::stderr"];
        forbid(&["cli"], &printing, "only cli/ prints");
        forbid(&["cli", "main"], &["anyhow"], "only cli/ uses anyhow");
        forbid(&["cli", "main"], &["process::exit"], "only cli/ ends the process");
        forbid(&[], &[".unwrap()"], "no unwrap outside tests; `expect` says why it holds");
        forbid(&[], &["#[allow(", "#![allow("], "`expect(lint, reason)` instead of `allow`");
        forbid(&[], &["@compute"], "shaders are files, not strings");
    }
    report(&breaches);
}

/// Functions of WGSL source: name and body.
fn functions(source: &str) -> Vec<(String, String)> {
    let code = code(source);
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let rest = &code[at + 3..];
        let Some(open) = rest.find('{') else { continue };
        let mut depth = 0;
        let end = rest[open..].char_indices().find_map(|(ix, c)| {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            (depth == 0).then_some(open + ix)
        });
        found.push((identifier(rest).to_owned(), rest[open..end.unwrap_or(rest.len())].to_owned()));
    }
    found
}

/// Where a body last waits for its workgroup, by itself or in a function of `waiting`.
fn last_barrier(body: &str, waiting: &[String]) -> Option<usize> {
    let own = ["workgroupBarrier(", "storageBarrier(", "workgroupUniformLoad("];
    let own = own.iter().filter_map(|call| body.rfind(call));
    own.chain(waiting.iter().filter_map(|name| body.rfind(&format!("{name}(")))).max()
}

/// naga accepts a `return` before a barrier in divergent flow; drivers hang or return nonsense.
#[test]
fn no_shader_returns_before_a_barrier() {
    let shaders = files("shaders", "wgsl");
    let library = shaders.iter().filter(|(file, _)| file.starts_with("shaders/lib/"));
    let library: Vec<_> = library.flat_map(|(_, source)| functions(source)).collect();
    let mut waiting: Vec<String> = Vec::new();
    loop {
        let more: Vec<String> = library
            .iter()
            .filter(|(name, body)| !waiting.contains(name) && last_barrier(body, &waiting).is_some())
            .map(|(name, _)| name.clone())
            .collect();
        if more.is_empty() {
            break;
        }
        waiting.extend(more);
    }
    let mut breaches = Vec::new();
    for (file, source) in &shaders {
        for name in early_returns(source, &waiting) {
            breaches.push(format!("{file}: `{name}` returns before a barrier"));
        }
    }
    report(&breaches);
}

/// Functions that return before a barrier.
fn early_returns(source: &str, waiting: &[String]) -> Vec<String> {
    let returns_early = |body: &str| {
        let barrier = last_barrier(body, waiting);
        barrier.is_some_and(|barrier| body.find("return").is_some_and(|at| at < barrier))
    };
    functions(source).into_iter().filter(|(_, body)| returns_early(body)).map(|(name, _)| name).collect()
}

#[test]
fn an_early_return_is_seen() {
    let shader = "fn f() -> u32 { workgroupBarrier(); return 1u; }
        fn main() { if x { return; } let y = total(2u); }
        fn other() { return; }";
    assert_eq!(early_returns(shader, &["total".to_owned()]), ["main"]);
}

#[test]
fn every_shader_says_what_it_computes() {
    let silent: Vec<String> = files("shaders", "wgsl")
        .into_iter()
        .filter(|(_, source)| !source.starts_with("//"))
        .map(|(file, _)| format!("{file}: starts without a comment"))
        .collect();
    report(&silent);
}

/// The registry as a table for readers.
fn operators_page() -> String {
    let mut page = String::from(
        "# Operators\n\n\
         Generated from the registry `OPS` in `src/ops/mod.rs`; regenerate with\n\
         `UPDATE_DOCS=1 cargo test --test structure`.\n\n\
         Every operator has an f64 reference, a cost and test cases in the file of its family under `src/ops/`.\n\
         *Gradient* marks those that gradients flow back through.\n\n\
         | operator | what it computes | gradient | shaders |\n|---|---|---|---|\n",
    );
    for def in OPS {
        let gradient = (def.cases)().iter().any(|case| !case.differentiable.is_empty());
        let shaders: Vec<String> = def.shaders.iter().map(|path| format!("`{path}`")).collect();
        let summary = def.summary.replace('|', "\\|");
        let gradient = if gradient { "yes" } else { "" };
        writeln!(page, "| `{}` | {summary} | {gradient} | {} |", def.name, shaders.join(", "))
            .expect("writing to a string does not fail");
    }
    page
}

#[test]
fn the_table_of_operators_is_up_to_date() {
    let path = root().join("docs/operators.md");
    let page = operators_page();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, page).expect("docs/ is writable");
        return;
    }
    let found = fs::read_to_string(&path).unwrap_or_default().replace("\r\n", "\n");
    assert!(
        found == page,
        "docs/operators.md does not match the registry; run: UPDATE_DOCS=1 cargo test --test structure"
    );
}

/// Words after `trephine` in the code of a Markdown file, where they can be a command.
fn commands_in(markdown: &str) -> Vec<String> {
    let mut fenced = false;
    let mut found = Vec::new();
    for line in markdown.lines() {
        if line.starts_with("```") {
            fenced = !fenced;
            continue;
        }
        // Outside of fences, odd pieces between backticks are code.
        let pieces: Vec<&str> =
            if fenced { vec![line] } else { line.split('`').skip(1).step_by(2).collect() };
        for piece in pieces {
            let mut words = piece.split_whitespace();
            if words.next().is_some_and(|program| program == "trephine" || program.ends_with("/trephine")) {
                let command = words.next().unwrap_or_default();
                if !command.is_empty()
                    && command.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
                {
                    found.push(command.to_owned());
                }
            }
        }
    }
    found.sort();
    found.dedup();
    found
}

#[test]
fn the_commands_of_the_readme_exist() {
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md");
    let commands = commands_in(&readme);
    for expected in ["strip", "train", "evaluate", "n4", "devices"] {
        assert!(commands.iter().any(|c| c == expected), "the README does not mention `trephine {expected}`");
    }
    for command in commands {
        let help = Command::new(env!("CARGO_BIN_EXE_trephine")).args([&command, "--help"]).output();
        let help = help.expect("the program starts");
        let text = String::from_utf8_lossy(&help.stdout);
        assert!(
            help.status.success() && text.contains("Usage"),
            "the README names `trephine {command}`, which the program does not know"
        );
    }
}

#[test]
fn the_files_that_documents_link_to_exist() {
    let mut breaches = Vec::new();
    for page in ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "weights/README.md"] {
        let text = fs::read_to_string(root().join(page)).unwrap_or_else(|e| panic!("{page}: {e}"));
        let folder = root().join(page);
        let folder = folder.parent().expect("a file lies in a folder");
        for (at, _) in text.match_indices("](") {
            let target = text[at + 2..].split([')', '#', ' ']).next().unwrap_or_default();
            let local = !target.is_empty() && !target.contains("://") && !target.ends_with(".png");
            if local && !folder.join(target).exists() {
                breaches.push(format!("{page}: links to {target}, which does not exist"));
            }
        }
    }
    report(&breaches);
}
