//! A compiler's report on assembled WGSL, told of the files that its lines come from.

use std::ops::Range;

use codespan_reporting::diagnostic::{Diagnostic, Label};
use codespan_reporting::files::SimpleFiles;
use codespan_reporting::term::{self, Config};

/// What naga says of a shader: byte ranges of the assembled source with words on each, the first one the cause.
pub(super) struct Complaint {
    pub message: String,
    pub labels: Vec<(Range<usize>, String)>,
    pub notes: Vec<String>,
}

impl Complaint {
    /// `FILE:LINE:COLUMN: message`, and below it the lines in question with carets, as a person finds them in the files.
    ///
    /// `source` is what was assembled, `origins` the file and line of each of its lines.
    pub(super) fn text(&self, source: &str, origins: &[(String, usize)]) -> String {
        let shader = Assembled { source, origins };
        let mut files = SimpleFiles::new();
        let mut known: Vec<&str> = Vec::new();
        let mut labels = Vec::new();
        let mut first = String::new();
        for (range, words) in &self.labels {
            let Some(place) = Place::of(shader, range) else { continue };
            if first.is_empty() {
                first = format!("{}:{}:{}: ", place.file, place.line, place.column);
            }
            let file = known.iter().position(|name| *name == place.file).unwrap_or_else(|| {
                known.push(place.file);
                files.add(place.file.to_owned(), visible_lines(shader, place.file))
            });
            let start = line_start(files.get(file).map_or("", |f| f.source().as_str()), place.line);
            let bytes = start + place.bytes.start..start + place.bytes.end;
            let label =
                if labels.is_empty() { Label::primary(file, bytes) } else { Label::secondary(file, bytes) };
            labels.push(label.with_message(words));
        }
        let diagnostic = Diagnostic::error().with_labels(labels).with_notes(self.notes.clone());
        // A report that cannot be drawn leaves the message, which says the essential.
        let drawn = term::emit_into_string(&Config::default(), &files, &diagnostic).unwrap_or_default();
        // The first line repeats the message.
        let excerpt: Vec<&str> = drawn.lines().skip(1).map(str::trim_end).collect();
        format!("{first}{}\n{}", self.message, excerpt.join("\n").trim_end())
    }
}

/// Assembled source with the file and line of each of its lines.
#[derive(Clone, Copy)]
struct Assembled<'a> {
    source: &'a str,
    origins: &'a [(String, usize)],
}

/// A range of the assembled source in the file that its first line comes from.
struct Place<'a> {
    file: &'a str,
    /// Line and column as a person counts.
    line: usize,
    column: usize,
    /// Bytes from the line's start on; what reaches beyond the line is cut off.
    bytes: Range<usize>,
}

impl<'a> Place<'a> {
    fn of(shader: Assembled<'a>, range: &Range<usize>) -> Option<Self> {
        let before = shader.source.get(..range.start)?;
        let start = before.rfind('\n').map_or(0, |at| at + 1);
        let (file, line) = shader.origins.get(before.matches('\n').count())?;
        let text = shader.source[start..].lines().next().unwrap_or_default();
        let bytes = range.start - start..(range.end - start).min(text.len()).max(range.start - start);
        let column = before[start..].chars().count() + 1;
        Some(Self { file, line: *line, column, bytes })
    }
}

/// The lines of a file that were assembled, each at its number; directives and branches that were not taken are blank.
fn visible_lines(shader: Assembled<'_>, file: &str) -> String {
    let mut lines: Vec<&str> = Vec::new();
    for (text, (_, number)) in shader.source.lines().zip(shader.origins).filter(|(_, (name, _))| name == file)
    {
        let ix = number.saturating_sub(1);
        if lines.len() <= ix {
            lines.resize(ix + 1, "");
        }
        lines[ix] = text;
    }
    lines.join("\n") + "\n"
}

/// Byte at which a line begins, counted from 1.
fn line_start(text: &str, line: usize) -> usize {
    text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum()
}

#[cfg(test)]
mod tests {
    use crate::gpu::{KernelKey, Replacement, assemble, validate};

    fn complaint(source: &str) -> String {
        let key = KernelKey::new("elementwise/add.wgsl").define("F16", 0);
        let replacement = Replacement { file: "own.wgsl".to_owned(), source: source.to_owned() };
        let shader = assemble(&key, Some(&replacement)).expect("assembles");
        validate(&key, &shader).expect_err("is wrong").to_string()
    }

    #[test]
    fn a_report_names_the_line_that_a_person_sees() {
        let source =
            include_str!("../../shaders/elementwise/add.wgsl").replace("value_of(b[i])", "value_of(c[i])");
        let line = 1 + source.lines().position(|line| line.contains("c[i]")).expect("it is there");
        let text = complaint(&source);
        let column =
            1 + source.lines().nth(line - 1).and_then(|line| line.find("c[i]")).expect("it is there");
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].contains(&format!("own.wgsl:{line}:{column}: ")), "{text}");
        assert!(
            lines.iter().any(|l| l.starts_with(&line.to_string()) && l.contains("value_of(c[i])")),
            "{text}"
        );
        assert!(lines.iter().any(|l| l.trim_start_matches([' ', '│']).starts_with('^')), "{text}");
    }

    #[test]
    fn an_error_of_types_names_its_line_too() {
        let source =
            include_str!("../../shaders/elementwise/add.wgsl").replace("let i = flat", "let i: f32 = flat");
        let line = 1 + source.lines().position(|line| line.contains("let i: f32")).expect("it is there");
        let text = complaint(&source);
        assert!(text.contains(&format!("own.wgsl:{line}:")) && text.contains('^'), "{text}");
    }
}
