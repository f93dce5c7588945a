//! The house rules that the compiler does not know: layers, who may print, shaders without traps, and documents
//! that follow the code.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use trephine::graph::Graph;
use trephine::ops::{GradientBuilder, OPS, OpDef, ValueId};

/// Each layer with the layers that it may use; see ARCHITECTURE.md.
const LAYERS: [(&str, &[&str]); 9] = [
    ("tensor", &[]),
    ("volume", &["tensor"]),
    ("gpu", &["tensor"]),
    ("ops", &["gpu", "tensor"]),
    ("graph", &["ops", "gpu", "tensor"]),
    ("model", &["graph", "ops", "gpu", "tensor"]),
    ("pipeline", &["model", "graph", "ops", "gpu", "tensor", "volume"]),
    ("lab", &["pipeline", "model", "graph", "ops", "gpu", "tensor", "volume"]),
    ("cli", &["lab", "pipeline", "model", "graph", "ops", "gpu", "tensor", "volume"]),
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

/// First segments of every path that starts at the crate's root, as the program calls it too: `crate::a::b`,
/// `trephine::{a::b, c}`, and `super::` chains that reach a layer.
fn uses(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    let starts = ["crate::", "trephine::"].map(|root| code.match_indices(root));
    for (at, root) in starts.into_iter().flatten() {
        let rest = &code[at + root.len()..];
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
    let code = "use crate::{gpu::{Caps, Gpu}, ops};\nuse super::super::graph::Graph;\nlet x = crate::tensor::y();\n\
                use trephine::model;";
    assert_eq!(uses(code), ["gpu", "ops", "tensor", "model", "graph"]);
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

/// What waits in a thread, and the files that may: the device is polled in one, files are read and written in another, and
/// the program waits for all that it does.
const BLOCKING: [(&str, &[&str]); 8] = [
    ("block_on", &["src/cli/mod.rs"]),
    ("pollster", &["src/cli/mod.rs"]),
    ("PollType::Wait", &["src/gpu/completion.rs"]),
    ("mpsc", &["src/gpu/completion.rs"]),
    (".join()", &["src/gpu/completion.rs"]),
    ("thread::scope", &[]),
    ("Condvar", &[]),
    ("_blocking(", &["src/pipeline/threads.rs"]),
];

/// Lines of a file that wait where nothing may.
fn waits(file: &str, code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (word, allowed) in BLOCKING {
        let lines =
            code.lines().enumerate().filter(|(_, line)| line.contains(word) && !allowed.contains(&file));
        found
            .extend(lines.map(|(ix, line)| format!("{file}:{}: waits in a thread: {}", ix + 1, line.trim())));
    }
    found
}

#[test]
fn nothing_waits_in_a_thread_but_the_program_in_one_place() {
    let mut breaches = Vec::new();
    let mut places = 0;
    for (file, source) in files("src", "rs") {
        let code = code_without_tests(&source);
        breaches.extend(waits(&file, &code));
        places += code.matches("block_on(").count();
    }
    report(&breaches);
    assert_eq!(places, 1, "places that wait for a future");
    for line in
        ["pollster::block_on(gpu.wait())?;", "use std::sync::mpsc;", "gpu.poll(PollType::Wait { .. });"]
    {
        assert!(!waits("src/pipeline/strip.rs", line).is_empty(), "{line}");
    }
    assert_eq!(waits("src/lab/timing.rs", "let spans = gpu.wait().await?;\npath.join(\"file\");"), [""; 0]);
}

/// Arrows between files of `src/` that close a circle and are still to be removed: an entry that closes none any
/// more fails the test. An end in `/` stands for every file of that folder.
const KNOWN_CIRCLES: &[(&str, &str)] = &[("src/cli/mod.rs", "src/cli/")];

/// Files of `src/` that are still to be split.
const KNOWN_LONG: &[&str] = &[];

/// Most lines of a file of `src/`.
const MOST_LINES: usize = 700;

/// The modules of `src/` by path from the root, such as `ops::conv`; the root itself is the empty path.
#[derive(Default)]
struct Modules(BTreeMap<String, Module>);

/// A module that is a file.
#[derive(Default)]
struct Module {
    file: String,
    /// Its code without comments, unit tests, `use` and `mod`.
    body: String,
    /// What its `use` brings in: each name with its path from the root.
    names: BTreeMap<String, String>,
    /// Those of the names that are only passed on.
    passed_on: BTreeSet<String>,
    /// Modules of which it takes all names.
    globs: Vec<String>,
}

/// Where a path leads: to an item in a file, and what of the path lies inside the file; or to a module.
enum Target {
    Item { file: String, path: String },
    Module,
}

/// The path of a module inside another.
fn inside(module: &str, name: &str) -> String {
    if module.is_empty() { name.to_owned() } else { format!("{module}::{name}") }
}

/// Splits at the commas that no brace encloses.
fn split_group(group: &str) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (0, 0, Vec::new());
    for (ix, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(group[start..ix].trim());
                start = ix + 1;
            }
            _ => {}
        }
    }
    parts.push(group[start..].trim());
    parts.retain(|part| !part.is_empty());
    parts
}

/// The tree of a `use`, flat: each path with the name it gets.
fn leaves(tree: &str, prefix: &str, found: &mut Vec<(String, String)>) {
    if let Some((head, group)) = tree.split_once('{') {
        let prefix = format!("{prefix}{head}");
        let group = group.trim_end();
        for part in split_group(group.strip_suffix('}').unwrap_or(group)) {
            leaves(part, &prefix, found);
        }
        return;
    }
    let (path, alias) = tree.split_once(" as ").unwrap_or((tree, ""));
    let whole = format!("{prefix}{}", path.trim());
    let whole = whole.strip_suffix("::self").unwrap_or(&whole).to_owned();
    let last = whole.rsplit("::").next().unwrap_or_default().to_owned();
    found.push((whole, if alias.is_empty() { last } else { alias.trim().to_owned() }));
}

/// Paths `a::b::c` in code, and single identifiers.
fn paths(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut rest = code;
    while let Some(start) = rest.find(|c: char| c.is_alphabetic() || c == '_') {
        rest = &rest[start..];
        let mut end = identifier(rest).len();
        while let Some(next) = rest[end..].strip_prefix("::") {
            match identifier(next).len() {
                0 => break,
                len => end += 2 + len,
            }
        }
        found.insert(rest[..end].to_owned());
        rest = &rest[end..];
    }
    found
}

/// Whether code defines an item of this name.
fn defines(code: &str, name: &str) -> bool {
    ["fn", "struct", "enum", "trait", "type", "const", "static"].iter().any(|kind| {
        code.match_indices(&format!("{kind} {name}")).any(|(at, found)| {
            let (before, after) = (&code[..at], &code[at + found.len()..]);
            let whole = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric() && c != '_');
            whole(before.chars().next_back()) && whole(after.chars().next())
        })
    })
}

impl Modules {
    /// Reads files by path, `src/...`.
    fn new(files: &BTreeMap<String, String>) -> Self {
        let mut modules = Self::default();
        for file in files.keys() {
            // The program is a crate of its own, which sees the library from outside.
            let Some(path) = file.strip_prefix("src/").filter(|path| *path != "main.rs") else { continue };
            let path = path.trim_end_matches(".rs").trim_end_matches("/mod").replace('/', "::");
            let path = if path == "lib" { String::new() } else { path };
            modules.0.insert(path, Module { file: file.clone(), ..Module::default() });
        }
        for path in modules.0.keys().cloned().collect::<Vec<_>>() {
            let code = code_without_tests(&files[&modules.0[&path].file]);
            let mut module = Module { file: modules.0[&path].file.clone(), ..Module::default() };
            let mut statement: Option<String> = None;
            let mut uses = Vec::new();
            for line in code.lines() {
                let trimmed = line.trim();
                let visible = trimmed.starts_with("pub");
                let tail = trimmed.strip_prefix("pub").unwrap_or(trimmed);
                let tail = tail.strip_prefix("(crate)").or(tail.strip_prefix("(super)")).unwrap_or(tail);
                let tail = tail.trim_start();
                if tail.starts_with("mod ") && tail.ends_with(';') {
                    continue;
                }
                let text = match (&mut statement, tail.strip_prefix("use ")) {
                    (Some(text), _) => {
                        text.push(' ');
                        text.push_str(trimmed);
                        text.clone()
                    }
                    (None, Some(tree)) => {
                        uses.push((String::new(), visible));
                        tree.to_owned()
                    }
                    (None, None) => {
                        module.body.push_str(line);
                        module.body.push('\n');
                        continue;
                    }
                };
                match text.strip_suffix(';') {
                    Some(tree) => {
                        uses.last_mut().expect("one was begun").0 = tree.to_owned();
                        statement = None;
                    }
                    None => statement = Some(text),
                }
            }
            for (tree, visible) in uses {
                let mut found = Vec::new();
                leaves(&tree, "", &mut found);
                for (path_in_use, name) in found {
                    let Some(target) = modules.absolute(&path, &module.names, &path_in_use) else { continue };
                    if name == "*" {
                        module.globs.push(target.trim_end_matches("::*").to_owned());
                        continue;
                    }
                    if visible {
                        module.passed_on.insert(name.clone());
                    }
                    module.names.insert(name, target);
                }
            }
            modules.0.insert(path, module);
        }
        modules
    }

    /// A path as `module` writes it, from the root; `None` where it leads out of the crate.
    fn absolute(&self, module: &str, names: &BTreeMap<String, String>, path: &str) -> Option<String> {
        let (head, rest) = path.split_once("::").unwrap_or((path, ""));
        let parent = |module: &str| module.rsplit_once("::").map_or("", |(parent, _)| parent).to_owned();
        let start = match head {
            // The program names the library.
            "crate" | "trephine" => String::new(),
            "self" => module.to_owned(),
            "super" => {
                let (mut at, mut rest) = (parent(module), rest);
                while let Some(further) = rest.strip_prefix("super::") {
                    (at, rest) = (parent(&at), further);
                }
                return Some(inside(&at, rest));
            }
            name if names.contains_key(name) => names[name].clone(),
            name if self.0.contains_key(&inside(module, name)) => inside(module, name),
            _ => return None,
        };
        Some(if rest.is_empty() { start } else { inside(&start, rest) })
    }

    /// Follows a path from the root, through what modules pass on.
    fn resolve(&self, path: &str) -> Target {
        let mut at = String::new();
        let segments: Vec<&str> = path.split("::").collect();
        for (ix, segment) in segments.iter().enumerate() {
            let next = inside(&at, segment);
            if self.0.contains_key(&next) {
                at = next;
                continue;
            }
            let module = &self.0[&at];
            let further = |target: &str| {
                let rest = segments[ix + 1..].iter().fold(target.to_owned(), |path, s| inside(&path, s));
                self.resolve(&rest)
            };
            if let Some(target) = module.names.get(*segment).filter(|target| *target != path) {
                return further(target);
            }
            if !defines(&module.body, segment)
                && let Some(glob) = module.globs.iter().find(|glob| self.has(glob, segment))
            {
                return further(&inside(glob, segment));
            }
            return Target::Item { file: module.file.clone(), path: segments[ix..].join("::") };
        }
        Target::Module
    }

    /// Whether a module defines a name or passes it on.
    fn has(&self, module: &str, name: &str) -> bool {
        self.0.get(module).is_some_and(|m| defines(&m.body, name) || m.names.contains_key(name))
    }

    /// The files that each file uses.
    fn arrows(&self) -> BTreeMap<String, BTreeSet<String>> {
        let mut arrows: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (path, module) in &self.0 {
            let mentioned = paths(&module.body);
            let mut used: BTreeSet<String> = BTreeSet::new();
            for (name, target) in &module.names {
                let here = |path: &String| path.split("::").any(|segment| segment == name);
                if !module.passed_on.contains(name) || mentioned.iter().any(here) {
                    used.insert(target.clone());
                }
            }
            for mention in &mentioned {
                if mention.contains("::") {
                    used.extend(self.absolute(path, &module.names, mention));
                }
                let head = mention.split("::").next().unwrap_or_default();
                if !defines(&module.body, head) && !module.names.contains_key(head) {
                    let glob = module.globs.iter().find(|glob| self.has(glob, head));
                    used.extend(glob.map(|glob| inside(glob, mention)));
                }
            }
            let files = used.iter().filter_map(|target| match self.resolve(target) {
                Target::Item { file, .. } => Some(file),
                // A module is used where a path goes through it.
                Target::Module => None,
            });
            let files = files.filter(|file| *file != module.file).collect();
            arrows.insert(module.file.clone(), files);
        }
        arrows
    }
}

/// The layers that name each item of `src/ops/`, by its path inside its file, such as `Activate::Relu`. The laboratory
/// does not count, which names what it measures.
fn users_of_operators(modules: &Modules) -> BTreeMap<String, BTreeSet<String>> {
    let mut users: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let measures = |file: &str| file.starts_with("src/lab/") || file.starts_with("src/pipeline/bench/");
    for (path, module) in &modules.0 {
        let Some(layer) = layer_of(&module.file) else { continue };
        if layer == "ops" || measures(&module.file) {
            continue;
        }
        for mention in paths(&module.body) {
            let Some(target) = modules.absolute(path, &module.names, &mention) else { continue };
            let Target::Item { file, path } = modules.resolve(&target) else { continue };
            if file.starts_with("src/ops/") {
                // A function's operators are used with it.
                let own = modules.0.values().find(|module| module.file == file).expect("paths lead to files");
                let called = functions(&own.body).into_iter().filter(|(name, _)| *name == path);
                for item in called.flat_map(|(_, body)| paths(&body)).chain([path.clone()]) {
                    users.entry(item).or_default().insert(layer.to_owned());
                }
            }
        }
    }
    users
}

/// A shortest way along the arrows from one file to another.
fn way(arrows: &BTreeMap<String, BTreeSet<String>>, from: &str, to: &str) -> Option<Vec<String>> {
    let mut ways = VecDeque::from([vec![from.to_owned()]]);
    let mut seen = BTreeSet::from([from.to_owned()]);
    while let Some(way) = ways.pop_front() {
        let last = way.last().expect("a way has a start");
        if last == to {
            return Some(way);
        }
        for next in arrows.get(last).into_iter().flatten() {
            if seen.insert(next.clone()) {
                ways.push_back(way.iter().chain([next]).cloned().collect());
            }
        }
    }
    None
}

/// Circles of files, a shortest one through each arrow that lies on one.
fn circles(arrows: &BTreeMap<String, BTreeSet<String>>) -> BTreeSet<Vec<String>> {
    let mut found = BTreeSet::new();
    for (from, targets) in arrows {
        for to in targets {
            if let Some(mut circle) = way(arrows, to, from) {
                let least = (0..circle.len()).min_by_key(|&ix| &circle[ix]).expect("a way has a start");
                circle.rotate_left(least);
                found.insert(circle);
            }
        }
    }
    found
}

#[test]
fn no_circle_of_files() {
    let mut arrows = Modules::new(&files("src", "rs")).arrows();
    let mut breaches = Vec::new();
    let whole = arrows.clone();
    for (from, to) in KNOWN_CIRCLES {
        let meant = |target: &String| target == to || (to.ends_with('/') && target.starts_with(to));
        let targets: Vec<String> =
            whole.get(*from).into_iter().flatten().filter(|target| meant(target)).cloned().collect();
        if !targets.iter().any(|target| way(&whole, target, from).is_some()) {
            breaches.push(format!("{from} -> {to} closes no circle: take it off KNOWN_CIRCLES"));
        }
        if let Some(known) = arrows.get_mut(*from) {
            known.retain(|target| !targets.contains(target));
        }
    }
    for circle in circles(&arrows) {
        breaches.push(format!("a circle: {} -> {}", circle.join(" -> "), circle[0]));
    }
    report(&breaches);
}

#[test]
fn a_circle_is_seen_through_re_exports_groups_and_bare_paths() {
    let source = |files: &[(&str, &str)]| {
        files.iter().map(|(file, code)| ((*file).to_owned(), (*code).to_owned())).collect()
    };
    let found = |files: &[(&str, &str)]| circles(&Modules::new(&source(files)).arrows());
    let tidy = [
        ("src/lib.rs", "pub mod a;\npub mod b;"),
        ("src/a/mod.rs", "mod one;\nmod two;\npub use one::{One, make};\npub use two::Two;"),
        ("src/a/one.rs", "pub struct One;\npub fn make() -> One { One }"),
        ("src/a/two.rs", "use super::One;\npub struct Two(One);\n#[cfg(test)]\nuse super::*;"),
        ("src/b.rs", "use crate::a::{self, Two as Second};\nfn f() -> Second { a::make() }"),
    ];
    assert!(found(&tidy).is_empty());
    let with = |file: &str, code: &'static str| {
        let mut files = tidy;
        files.iter_mut().find(|(name, _)| *name == file).expect("one of them").1 = code;
        found(&files).into_iter().collect::<Vec<_>>()
    };
    let two = [["src/a/one.rs".to_owned(), "src/a/two.rs".to_owned()]];
    assert_eq!(with("src/a/one.rs", "use super::{Two, two};\npub struct One;\nfn make() {}"), two);
    assert_eq!(with("src/a/one.rs", "pub struct One;\nfn make() { super::two::g(); }"), two);
    assert_eq!(
        with("src/a/one.rs", "use super::*;\npub struct One;\nfn make() -> Option<Two> { None }"),
        two
    );
    let mod_and_two = [["src/a/mod.rs".to_owned(), "src/a/two.rs".to_owned()]];
    let own = "mod one;\nmod two;\npub use one::One;\npub use two::Two;\npub struct Own(Two);";
    let mut files = tidy;
    files[1].1 = own;
    files[3].1 = "pub struct Two;\nfn f(own: super::Own) {}";
    assert_eq!(found(&files).into_iter().collect::<Vec<_>>(), mod_and_two);
}

#[test]
fn no_file_is_too_long() {
    let files = files("src", "rs");
    let long: Vec<_> = files.iter().filter(|(_, source)| source.lines().count() > MOST_LINES).collect();
    let mut breaches = Vec::new();
    for (file, source) in &long {
        if !KNOWN_LONG.contains(&file.as_str()) {
            breaches.push(format!("{file}: {} lines; split it by what it says", source.lines().count()));
        }
    }
    for known in KNOWN_LONG {
        if !long.iter().any(|(file, _)| file == known) {
            breaches.push(format!("{known} is not too long: take it off KNOWN_LONG"));
        }
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

/// The item of `src/ops/` that each operator is, from the comments of the registry's entries; gradients of an item
/// are none.
fn items_of_operators(files: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut items = BTreeMap::new();
    for source in files.values() {
        for entry in source.split("/// Registry entry of [`").skip(1) {
            let (comment, definition) = entry.split_once("\n").expect("an entry follows its comment");
            let item = comment.trim_end_matches("`].").rsplit("[`").next().unwrap_or_default();
            let name = definition.split("name: \"").nth(1).and_then(|rest| rest.split('"').next());
            items.insert(name.expect("an entry has a name").to_owned(), item.to_owned());
        }
    }
    items
}

/// The operators that the backward of each one applies.
fn backward_of(def: &OpDef) -> BTreeSet<String> {
    let mut applied = BTreeSet::new();
    for case in (def.cases)() {
        if case.differentiable.is_empty() {
            continue;
        }
        let mut graph = Graph::new();
        let inputs: Vec<ValueId> =
            case.inputs.iter().map(|(desc, _)| graph.input("input", desc.clone())).collect();
        let outputs = GradientBuilder::apply(&mut graph, case.op, &inputs).expect("cases have legal shapes");
        let desc = graph.desc(outputs[0]).clone();
        let seed = graph.input("seed", desc);
        let wrt: Vec<ValueId> = case.differentiable.iter().map(|&ix| inputs[ix]).collect();
        graph.backward(outputs[0], seed, &wrt).expect("the backward of a case builds");
        applied.extend(graph.nodes[1..].iter().map(|node| node.op.name().to_owned()));
    }
    applied
}

/// What uses each operator, in words: layers, and operators that are used and whose backward applies it.
fn uses_of_operators() -> BTreeMap<&'static str, String> {
    let sources = files("src", "rs");
    let users = users_of_operators(&Modules::new(&sources));
    let items = items_of_operators(&sources);
    let layers = |name: &str| {
        let of_item = |item: &String| {
            let methods = format!("{item}::");
            let named = users.iter().filter(|(path, _)| *path == item || path.starts_with(&methods));
            named.flat_map(|(_, layers)| layers.clone()).collect::<BTreeSet<String>>()
        };
        items.get(name).map(of_item).unwrap_or_default()
    };
    let backward: Vec<(&str, BTreeSet<String>)> =
        OPS.iter().map(|def| (def.name, backward_of(def))).collect();
    let mut used: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for def in OPS {
        let layers = layers(def.name);
        if !layers.is_empty() {
            used.insert(def.name, layers.into_iter().map(|layer| format!("{layer}/")).collect());
        }
    }
    // Gradients follow what they are gradients of; some are differentiated in turn.
    for _ in 0..2 {
        for (name, applied) in &backward {
            for other in OPS.iter().filter(|other| other.name != *name && applied.contains(other.name)) {
                let word = format!("backward of `{name}`");
                let is_new = !used.get(other.name).is_some_and(|words| words.contains(&word));
                if used.contains_key(name) && is_new {
                    used.entry(other.name).or_default().push(word);
                }
            }
        }
    }
    OPS.iter()
        .map(|def| (def.name, used.get(def.name).map_or("nothing yet".to_owned(), |words| words.join(", "))))
        .collect()
}

/// The registry as a table for readers.
fn operators_page() -> String {
    let mut page = String::from(
        "# Operators\n\n\
         Generated from the registry `OPS` in `src/ops/registry.rs`; regenerate with\n\
         `UPDATE_DOCS=1 cargo test --test structure`.\n\n\
         Every operator has an f64 reference, a cost and test cases in the file of its family under `src/ops/`.\n\
         *Gradient* marks those that gradients flow back through. *Used by* names the folders of `src/` that apply the\n\
         operator; what nothing uses yet is there for networks to come, and is tested like the others.\n\n\
         | operator | what it computes | gradient | used by | shaders |\n|---|---|---|---|---|\n",
    );
    let uses = uses_of_operators();
    for def in OPS {
        let gradient = (def.cases)().iter().any(|case| !case.differentiable.is_empty());
        let shaders: Vec<String> = def.shaders.iter().map(|path| format!("`{path}`")).collect();
        let summary = def.summary.replace('|', "\\|");
        let gradient = if gradient { "yes" } else { "" };
        let (used, shaders) = (&uses[def.name], shaders.join(", "));
        writeln!(page, "| `{}` | {summary} | {gradient} | {used} | {shaders} |", def.name)
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

/// The walks of ARCHITECTURE.md lead through files that exist, each named once.
#[test]
fn the_walks_name_files_that_exist_and_each_once() {
    let page = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("text");
    let mut breaches = Vec::new();
    for walk in page.split("\n## ").filter(|section| section.starts_with("The walk of")) {
        let mut seen = BTreeSet::new();
        let mut folder = String::new();
        let rows = walk.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| step"));
        for name in
            rows.flat_map(|row| row.rsplit('|').nth(1).unwrap_or_default().split('`').skip(1).step_by(2))
        {
            let name = match name.strip_prefix("…/") {
                Some(rest) => format!("{folder}{rest}"),
                None => name.to_owned(),
            };
            let place = name.trim_end_matches('/');
            folder = place[..place.rfind('/').map_or(0, |at| at + 1)].to_owned();
            let path = root().join("src").join(&name);
            if !path.exists() && !path.with_extension("rs").exists() {
                breaches.push(format!("ARCHITECTURE.md names {name}, which does not exist"));
            }
            if !seen.insert(name.clone()) {
                breaches.push(format!("ARCHITECTURE.md names {name} twice in one walk"));
            }
        }
        assert!(seen.len() > 10, "a walk of {} files", seen.len());
    }
    report(&breaches);
}

#[test]
fn the_files_that_documents_link_to_exist() {
    let mut breaches = Vec::new();
    let summary = fs::read_to_string(root().join("docs/SUMMARY.md")).expect("the book has a summary");
    for folder in ["", "docs", "weights"].map(|folder| root().join(folder)) {
        for path in
            fs::read_dir(&folder).expect("a folder of ours").map(|entry| entry.expect("readable").path())
        {
            if path.extension().is_none_or(|extension| extension != "md") {
                continue;
            }
            let page = path.strip_prefix(root()).expect("it is ours").display().to_string();
            let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{page}: {e}"));
            for (at, _) in text.match_indices("](") {
                let target = text[at + 2..].split([')', '#', ' ']).next().unwrap_or_default();
                if !target.is_empty() && !target.contains("://") && !folder.join(target).exists() {
                    breaches.push(format!("{page}: links to {target}, which does not exist"));
                }
            }
            if let Some(chapter) = page.strip_prefix("docs/").filter(|name| *name != "SUMMARY.md")
                && !summary.contains(&format!("]({chapter})"))
            {
                breaches.push(format!("{page} is no chapter of the book: name it in docs/SUMMARY.md"));
            }
        }
    }
    report(&breaches);
}
