//! The label maps of a run: a table of them, or a folder.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::prelude::*;

use super::map::LabelMap;
use super::tissue::{Family, family_of};
use crate::pipeline::PipelineError;
use crate::volume::pairs::{PairTable, stem};

/// The column of a table that names the family of a map.
const FAMILY_COLUMN: &str = "family";

/// A map's file and family, before it is read.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The file.
    pub file: PathBuf,
    /// What its labels mean.
    pub family: Family,
}

/// The maps that a table names in its column `image`, with the families of its column `family` (a name, or a TOML file
/// beside the table), or all images of a folder that a file `labels.toml` describes.
///
/// # Errors
/// A table or a folder that cannot be read or names no map, a family that is none.
pub fn list(table_or_folder: &Path) -> Result<Vec<Listed>, PipelineError> {
    let fail = |reason: String| PipelineError::Input { file: table_or_folder.to_path_buf(), reason };
    let maps = if table_or_folder.is_dir() { folder(table_or_folder)? } else { table(table_or_folder)? };
    if maps.is_empty() {
        return Err(fail("names no label map; name images of labels in it".into()));
    }
    Ok(maps)
}

fn folder(folder: &Path) -> Result<Vec<Listed>, PipelineError> {
    let fail = |e: std::io::Error| PipelineError::Input {
        file: folder.to_path_buf(),
        reason: format!("cannot be read ({e}); check the path"),
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        if path.file_name().is_some_and(|name| stem(&name.to_string_lossy()).is_some()) {
            files.push(path);
        }
    }
    files.sort();
    let Some(first) = files.first() else { return Ok(Vec::new()) };
    let family = family_of(first, None)?;
    Ok(files.into_iter().map(|file| Listed { file, family: family.clone() }).collect())
}

fn table(path: &Path) -> Result<Vec<Listed>, PipelineError> {
    let table = PairTable::read(path)?;
    let column = table.extra_columns.iter().position(|name| name == FAMILY_COLUMN);
    let beside = path.parent().unwrap_or(Path::new(""));
    table
        .pairs
        .into_iter()
        .map(|row| {
            let named = column.map(|ix| row.extra[ix].as_str()).filter(|name| !name.is_empty());
            let family = match named {
                Some(name) if Family::built_in_names().contains(&name) => Family::find(name),
                Some(name) => Family::find(&beside.join(name).to_string_lossy()),
                None => family_of(&row.image, None),
            };
            Ok(Listed { file: row.image, family: family? })
        })
        .collect()
}

/// Reads all maps, each kept in voxels of `store_mm` if its own are smaller; `read` hears of each.
///
/// # Errors
/// [`PipelineError::Rows`] with all maps that cannot be painted.
pub fn read(
    maps: &[Listed],
    store_mm: f64,
    read: &(dyn Fn() + Sync),
) -> Result<Vec<Arc<LabelMap>>, PipelineError> {
    let total = maps.len();
    let results: Vec<Result<LabelMap, PipelineError>> = maps
        .par_iter()
        .map(|listed| {
            let map = LabelMap::read(&listed.file, &listed.family, Some(store_mm));
            read();
            map
        })
        .collect();
    let (mut good, mut faults) = (Vec::with_capacity(total), Vec::new());
    for result in results {
        match result {
            Ok(map) => good.push(Arc::new(map)),
            Err(error) => faults.push(error),
        }
    }
    if faults.is_empty() { Ok(good) } else { Err(PipelineError::Rows { faults, total }) }
}
