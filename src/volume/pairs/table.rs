//! Tables of images and their masks.
//!
//! A table is tab-separated with a header line. Columns `image` and `mask` hold paths relative
//! to the table's folder; other columns are kept. An empty mask (or `n/a`, as BIDS writes it)
//! means that there is none.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use crate::volume::unfinished::Temporary;
use crate::volume::{Problem, VolumeError};

/// One image, perhaps with its mask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// Path of the image, ready to open.
    pub image: PathBuf,
    /// Path of its mask, ready to open.
    pub mask: Option<PathBuf>,
    /// Values of the other columns, one each.
    pub extra: Vec<String>,
}

/// A table of pairs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PairTable {
    /// Names of the columns besides `image` and `mask`.
    pub extra_columns: Vec<String>,
    /// The pairs in order.
    pub pairs: Vec<Pair>,
}

/// How much a pair counts in training.
#[derive(Debug, Clone, PartialEq)]
pub struct Weight {
    /// In comparison with other pairs; above 0.
    pub factor: f32,
    /// Path of an image of weights of the voxels, ready to open.
    pub image: Option<PathBuf>,
}

impl Default for Weight {
    fn default() -> Self {
        Self { factor: 1.0, image: None }
    }
}

/// Column of [`Weight::factor`].
pub const WEIGHT: &str = "weight";
/// Column of [`Weight::image`].
pub const WEIGHT_IMAGE: &str = "weight_image";
const IMAGE: &str = "image";
const MASK: &str = "mask";

impl PairTable {
    /// Reads a table. Whether the images exist is not looked at.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, VolumeError> {
        let path = path.as_ref();
        Self::parse(path).map_err(|p| p.at(path))
    }

    fn parse(path: &Path) -> Result<Self, Problem> {
        let bytes = fs::read(path).map_err(Problem::from_read)?;
        let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
        // Tab-separated files have no quotes: one in a name is part of the name.
        let mut reader =
            csv::ReaderBuilder::new().delimiter(b'\t').quoting(false).flexible(true).from_reader(text);
        let table = |e: csv::Error| Problem::Table(e.to_string());
        let header = reader.headers().map_err(table)?.clone();
        let column = |name: &str| header.iter().position(|h| h.trim() == name);
        let image_at = column(IMAGE).ok_or(Problem::Column(IMAGE))?;
        let mask_at = column(MASK);
        let others: Vec<usize> = (0..header.len()).filter(|&i| i != image_at && Some(i) != mask_at).collect();
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut pairs = Vec::new();
        for record in reader.records() {
            let record = record.map_err(table)?;
            let cell = |i: usize| record.get(i).unwrap_or("").trim();
            if record.iter().all(|c| c.trim().is_empty()) {
                continue;
            }
            let image = cell(image_at);
            if image.is_empty() {
                let line = record.position().map_or(0, csv::Position::line);
                return Err(Problem::EmptyImage(line));
            }
            let mask = mask_at.map(cell).filter(|m| !matches!(*m, "" | "n/a"));
            pairs.push(Pair {
                image: folder.join(image),
                mask: mask.map(|m| folder.join(m)),
                extra: others.iter().map(|&i| cell(i).to_owned()).collect(),
            });
        }
        Ok(Self { extra_columns: others.iter().map(|&i| header[i].trim().to_owned()).collect(), pairs })
    }

    /// What the columns `weight` and `weight_image` say of each pair, empty cells nothing; `path` is where the table was read.
    ///
    /// # Errors
    /// A weight that is no number above 0, with the image that it is about.
    pub fn weights(&self, path: &Path) -> Result<Vec<Weight>, VolumeError> {
        let column = |name: &str| self.extra_columns.iter().position(|column| column == name);
        let (factor, image) = (column(WEIGHT), column(WEIGHT_IMAGE));
        let folder = path.parent().unwrap_or(Path::new(""));
        let weight = |pair: &Pair| {
            let cell = |at: Option<usize>| {
                let cell = at.and_then(|at| pair.extra.get(at)).map_or("", String::as_str);
                (!matches!(cell, "" | "n/a")).then_some(cell)
            };
            let mut weight = Weight { image: cell(image).map(|name| folder.join(name)), ..Weight::default() };
            if let Some(text) = cell(factor) {
                let number = text.parse().ok().filter(|number: &f32| *number > 0.0 && number.is_finite());
                weight.factor = number.ok_or_else(|| {
                    let image = pair.image.display();
                    Problem::Table(format!("the weight of {image} is '{text}', no number above 0")).at(path)
                })?;
            }
            Ok(weight)
        };
        self.pairs.iter().map(weight).collect()
    }

    /// Writes a table, its paths relative to its folder. An existing file is replaced.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<(), VolumeError> {
        let path = path.as_ref();
        self.format(path)
            .and_then(|bytes| replace(path, &bytes).map_err(Problem::Write))
            .map_err(|p| p.at(path))
    }

    fn format(&self, path: &Path) -> Result<Vec<u8>, Problem> {
        let folder = folder_of(path);
        if !folder.is_dir() {
            return Err(Problem::NoFolder(folder.to_path_buf()));
        }
        let mut writer = csv::WriterBuilder::new()
            .delimiter(b'\t')
            .quote_style(csv::QuoteStyle::Never)
            .from_writer(Vec::new());
        let table = |e: csv::Error| Problem::Table(e.to_string());
        let head = [IMAGE, MASK].into_iter();
        writer.write_record(head.chain(self.extra_columns.iter().map(String::as_str))).map_err(table)?;
        for pair in &self.pairs {
            let cell = |file: &Path| cell(file, folder).ok_or_else(|| Problem::PathName(file.to_path_buf()));
            let image = cell(&pair.image)?;
            let mask = pair.mask.as_deref().map(cell).transpose()?;
            let cells = [image, mask.unwrap_or_default()];
            let extra = (0..self.extra_columns.len())
                .map(|i| pair.extra.get(i).map_or("", String::as_str))
                .map(|text| text.replace(['\t', '\n', '\r'], " "));
            writer.write_record(cells.into_iter().chain(extra)).map_err(table)?;
        }
        writer.into_inner().map_err(|e| Problem::Table(e.to_string()))
    }
}

/// The folder that a table's paths are relative to.
pub(super) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Writes a file on to a temporary one beside it and renames.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = Temporary::beside(path)?;
    io::Write::write_all(&mut file, bytes)?;
    file.finish()
}

/// What stands in a table in `folder` for a file; `None` for a name that is not UTF-8 or holds a tab or a line break.
pub(super) fn cell(file: &Path, folder: &Path) -> Option<String> {
    relative(file, folder).filter(|text| !text.contains(['\t', '\n', '\r']))
}

/// `file` as seen from `folder`, with `/` between the parts; absolute where they share no root.
/// `None` where it is not UTF-8.
pub fn relative(file: &Path, folder: &Path) -> Option<String> {
    // Only folders are resolved: a file may be a link into some store, and its name counts.
    let resolved = |p: &Path| {
        let p = if p.as_os_str().is_empty() { Path::new(".") } else { p };
        p.canonicalize().or_else(|_| std::path::absolute(p)).unwrap_or_else(|_| p.to_path_buf())
    };
    let file = match (file.parent(), file.file_name()) {
        (Some(parent), Some(name)) => resolved(parent).join(name),
        _ => resolved(file),
    };
    let folder = resolved(folder);
    let (to, from): (Vec<Component>, Vec<Component>) =
        (file.components().collect(), folder.components().collect());
    let shared = to.iter().zip(&from).take_while(|(a, b)| a == b).count();
    if shared == 0 {
        return file.to_str().map(str::to_owned);
    }
    let up = from[shared..].iter().map(|_| Some(".."));
    let down = to[shared..].iter().map(|c| c.as_os_str().to_str());
    let parts: Option<Vec<&str>> = up.chain(down).collect();
    parts.map(|parts| parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(folder: &Path, names: &[&str]) {
        for name in names {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, b"").unwrap();
        }
    }

    #[test]
    fn table_round_trip_from_another_folder() {
        let dir = tempfile::tempdir().unwrap();
        touch(dir.path(), &["data/a.nii", "data/\"b\" mask.nii", "t/x"]);
        let table = PairTable {
            extra_columns: vec!["site".into()],
            pairs: vec![
                Pair {
                    image: dir.path().join("data/a.nii"),
                    mask: Some(dir.path().join("data/\"b\" mask.nii")),
                    extra: vec!["one\ttwo".into()],
                },
                Pair { image: dir.path().join("t/../data/a.nii"), mask: None, extra: vec![] },
            ],
        };
        let path = dir.path().join("t/pairs.tsv");
        table.write(&path).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(
            text,
            "image\tmask\tsite\n../data/a.nii\t../data/\"b\" mask.nii\tone two\n../data/a.nii\t\t\n"
        );
        let back = PairTable::read(&path).unwrap();
        assert_eq!(back.extra_columns, ["site"]);
        assert!(back.pairs[0].image.is_file());
        assert!(back.pairs[0].mask.as_ref().unwrap().is_file());
        assert_eq!(back.pairs[1].mask, None);
        assert_eq!(back.pairs[0].extra, ["one two"]);
        assert_eq!(fs::read_dir(dir.path().join("t")).unwrap().count(), 2);
    }

    #[test]
    fn tables_by_hand() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.tsv");
        let read = |text: &str| {
            fs::write(&path, text).unwrap();
            PairTable::read(&path)
        };
        // Byte-order mark, Windows line ends, other order, short row, empty line.
        let t = read("\u{feff}age\tmask\timage\r\n3\tn/a\ta.nii\r\n\r\n4\tm.nii\tb.nii\r\n").unwrap();
        assert_eq!(t.pairs.len(), 2);
        assert_eq!(t.pairs[0].mask, None);
        assert_eq!(t.pairs[1].mask, Some(dir.path().join("m.nii")));
        assert_eq!(t.pairs[1].extra, ["4"]);
        assert_eq!(read("image\tmask\na.nii\n").unwrap().pairs[0].mask, None);
        let error = read("picture\tmask\na\tb\n").unwrap_err().to_string();
        assert!(error.contains("p.tsv: has no column `image`;"), "{error}");
        let error = read("image\tmask\n\tb.nii\n").unwrap_err().to_string();
        assert!(error.contains("line 2"), "{error}");
        assert!(read("").is_err());
        let error = PairTable::read(dir.path().join("none.tsv")).unwrap_err();
        assert!(error.to_string().ends_with("none.tsv: does not exist; check the path"));
    }
}
