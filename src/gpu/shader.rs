//! Shader assembly: `#import`, `#ifdef/#else/#endif` and injected constants, with a line map so that
//! errors name the file and line a person can open.

use std::collections::HashSet;

use include_dir::{Dir, include_dir};

use super::dispatch::KernelKey;
use super::error::GpuError;
use super::excerpt::Complaint;

/// The WGSL files below `shaders/`, embedded so that the binary works alone.
pub static SHADERS: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/shaders");

/// Assembled WGSL with the origin of each of its lines.
#[derive(Clone, Debug)]
pub struct AssembledShader {
    /// The source handed to naga.
    pub source: String,
    /// For each line of `source`: file below `shaders/` and line number, both as a person counts.
    pub lines: Vec<(String, usize)>,
}

/// Source that stands in for an embedded file.
#[derive(Clone, Debug)]
pub struct Replacement {
    /// The file it comes from, for errors.
    pub file: String,
    /// The source.
    pub source: String,
}

/// A line and where it comes from.
struct Line {
    text: String,
    origin: (String, usize),
}

struct Assembler<'a> {
    key: &'a KernelKey,
    /// `enable` directives: WGSL wants them before anything else.
    enables: Vec<Line>,
    lines: Vec<Line>,
    imported: HashSet<String>,
}

/// Assembles the shader of `key`; `replacement` stands in for the file itself.
///
/// # Errors
/// A missing file, an unbalanced `#ifdef` or an unknown directive, with file and line.
pub fn assemble(key: &KernelKey, replacement: Option<&Replacement>) -> Result<AssembledShader, GpuError> {
    let mut assembler = Assembler { key, enables: Vec::new(), lines: Vec::new(), imported: HashSet::new() };
    for (name, value) in &key.defines {
        assembler.push(&format!("const {name}: u32 = {value}u;"), "<defines>", 0);
    }
    match replacement {
        Some(Replacement { file, source }) => assembler.file(file, source)?,
        None => {
            let source = assembler.load(key.path, key.path, 0)?;
            assembler.file(key.path, source)?;
        }
    }
    let mut out = AssembledShader { source: String::new(), lines: Vec::new() };
    for line in assembler.enables.into_iter().chain(assembler.lines) {
        out.source.push_str(&line.text);
        out.source.push('\n');
        out.lines.push(line.origin);
    }
    if let Ok(dir) = std::env::var("TREPHINE_DUMP_WGSL") {
        dump(&dir, key, &out.standard());
    }
    Ok(out)
}

impl AssembledShader {
    /// The source as the standard has it, for other compilers: it wants `enable subgroups;`, which naga refuses.
    pub fn standard(&self) -> String {
        let enables = if self.source.contains("subgroup") { "enable subgroups;\n" } else { "" };
        format!("{enables}{}", self.source)
    }
}

fn dump(dir: &str, key: &KernelKey, source: &str) {
    let path = std::path::Path::new(dir).join(key.file_stem() + ".wgsl");
    if let Err(error) = std::fs::create_dir_all(dir).and_then(|()| std::fs::write(&path, source)) {
        log::warn!("TREPHINE_DUMP_WGSL: cannot write {}: {error}", path.display());
    }
}

impl Assembler<'_> {
    fn error(&self, file: &str, line: usize, reason: &str) -> GpuError {
        GpuError::Shader { path: self.key.path.to_owned(), reason: format!("{file}:{line}: {reason}") }
    }

    fn load(&self, path: &str, from: &str, line: usize) -> Result<&'static str, GpuError> {
        SHADERS
            .get_file(path)
            .and_then(|file| file.contents_utf8())
            .ok_or_else(|| self.error(from, line, &format!("no shader file '{path}'")))
    }

    fn push(&mut self, text: &str, file: &str, line: usize) {
        let to = if text.starts_with("enable ") { &mut self.enables } else { &mut self.lines };
        to.push(Line { text: text.to_owned(), origin: (file.to_owned(), line) });
    }

    fn file(&mut self, path: &str, source: &str) -> Result<(), GpuError> {
        // One entry per open #ifdef: whether its current branch is taken.
        let mut branches: Vec<bool> = Vec::new();
        for (ix, text) in source.lines().enumerate() {
            let line = ix + 1;
            let Some(directive) = text.trim_start().strip_prefix('#') else {
                if branches.iter().all(|&taken| taken) {
                    self.push(text, path, line);
                }
                continue;
            };
            let mut words = directive.split_whitespace();
            match (words.next(), words.next()) {
                (Some("ifdef"), Some(name)) => {
                    let set = self.key.defines.iter().any(|(n, v)| *n == name && *v != 0);
                    branches.push(set);
                }
                (Some("else"), _) => match branches.last_mut() {
                    Some(taken) => *taken = !*taken,
                    None => return Err(self.error(path, line, "#else without #ifdef")),
                },
                (Some("endif"), _) => {
                    if branches.pop().is_none() {
                        return Err(self.error(path, line, "#endif without #ifdef"));
                    }
                }
                (Some("import"), Some(name)) => {
                    if branches.iter().all(|&taken| taken) {
                        let name = name.trim_matches('"').to_owned();
                        if self.imported.insert(name.clone()) {
                            let source = self.load(&name, path, line)?;
                            self.file(&name, source)?;
                        }
                    }
                }
                _ => return Err(self.error(path, line, &format!("unknown directive '{text}'"))),
            }
        }
        if branches.is_empty() { Ok(()) } else { Err(self.error(path, 0, "#ifdef without #endif")) }
    }
}

/// Parses and validates assembled WGSL; returns naga's module and what it knows of it.
///
/// # Errors
/// The first error, with file, line and column, and the lines in question below.
pub fn validate(
    key: &KernelKey,
    shader: &AssembledShader,
) -> Result<(naga::Module, naga::valid::ModuleInfo), GpuError> {
    let fail = |complaint: Complaint| GpuError::Shader {
        path: key.path.to_owned(),
        reason: complaint.text(&shader.source, &shader.lines),
    };
    let range = |span: naga::Span| span.to_range().unwrap_or_default();
    let module = naga::front::wgsl::parse_str(&shader.source).map_err(|e| {
        fail(Complaint {
            message: e.message().to_owned(),
            labels: e.labels().map(|(span, words)| (range(span), words.to_owned())).collect(),
            notes: e.notes().map(str::to_owned).collect(),
        })
    })?;
    let mut validator =
        naga::valid::Validator::new(naga::valid::ValidationFlags::all(), naga::valid::Capabilities::all());
    let info = validator.validate(&module).map_err(|e| {
        let causes = std::iter::successors(std::error::Error::source(e.as_inner()), |cause| cause.source());
        fail(Complaint {
            message: e.as_inner().to_string(),
            labels: e.spans().map(|(span, words)| (range(*span), words.clone())).collect(),
            notes: causes.map(ToString::to_string).collect(),
        })
    })?;
    Ok((module, info))
}
