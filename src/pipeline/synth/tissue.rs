//! Families of label maps: which label is which tissue, as a small TOML file says it.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::pipeline::PipelineError;

/// What a label stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tissue {
    /// Air round the head.
    Background,
    /// White matter, brainstem: parenchyma.
    White,
    /// Cortex and nuclei: parenchyma.
    Grey,
    /// Fluid in the ventricles.
    Ventricle,
    /// Fluid outside the ventricles, or all fluid where a family does not part them.
    Csf,
    /// Blood vessels, in the brain or beside it.
    Vessel,
    /// Dura.
    Dura,
    /// Compact bone.
    Skull,
    /// Bone with marrow.
    Marrow,
    /// Fat.
    Fat,
    /// Muscle.
    Muscle,
    /// Skin.
    Skin,
    /// Eyes.
    Eye,
    /// Air in the head.
    Air,
    /// Spinal cord and nerves.
    Cord,
    /// Any of the soft tissues outside the brain, unparted.
    Soft,
}

impl Tissue {
    /// Tissue of the brain.
    pub fn is_parenchyma(self) -> bool {
        matches!(self, Self::White | Self::Grey)
    }

    /// What is brain wherever it lies near enough to parenchyma.
    pub fn is_brain_or_fluid(self) -> bool {
        self.is_parenchyma() || matches!(self, Self::Ventricle | Self::Csf)
    }

    /// What is brain within the brain's envelope, and not in the film round it.
    pub fn is_brain_inside(self) -> bool {
        matches!(self, Self::Vessel | Self::Dura)
    }
}

/// A label of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class {
    /// What it stands for.
    pub tissue: Tissue,
    /// Labels of one group look alike.
    pub group: usize,
    /// Whether it is brain where it lies near enough to parenchyma.
    pub inside: bool,
}

/// Most classes of a family, of which vessels and dura take two each.
const MOST_CLASSES: usize = 256;

/// Which label is which tissue.
#[derive(Clone, Debug)]
pub struct Family {
    /// Its name.
    pub name: String,
    /// Class 0 is the background.
    pub classes: Vec<Class>,
    /// Class by label.
    by_label: HashMap<i64, u8>,
    /// By class of vessels and dura, that of the same within the envelope.
    enclosed: HashMap<u8, u8>,
    /// Whether ventricles have labels of their own.
    pub has_ventricles: bool,
}

/// The families that the program knows, by name.
static BUILT_IN: [(&str, &str); 5] = [
    ("synthseg-v1", include_str!("families/synthseg-v1.toml")),
    ("synthseg-v2", include_str!("families/synthseg-v2.toml")),
    ("brainweb20", include_str!("families/brainweb20.toml")),
    ("brainweb-discrete", include_str!("families/brainweb-discrete.toml")),
    ("mcx", include_str!("families/mcx.toml")),
];

/// As the file spells it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FamilyFile {
    name: String,
    #[serde(default, rename = "source")]
    _source: String,
    #[serde(default, rename = "licence")]
    _licence: String,
    labels: BTreeMap<Tissue, Vec<Vec<i64>>>,
}

impl Family {
    /// The names of the families that the program knows.
    pub fn built_in_names() -> [&'static str; 5] {
        BUILT_IN.map(|(name, _)| name)
    }

    /// A family that the program knows, or one from a TOML file.
    ///
    /// # Errors
    /// A name that is neither, a file that is no family's.
    pub fn find(name_or_file: &str) -> Result<Self, PipelineError> {
        if let Some((_, text)) = BUILT_IN.iter().find(|(name, _)| *name == name_or_file) {
            return Ok(Self::parse(text).expect("tests read the families that the program brings"));
        }
        let file = PathBuf::from(name_or_file);
        let text = std::fs::read_to_string(&file).map_err(|e| PipelineError::Input {
            file: file.clone(),
            reason: format!(
                "is neither a readable file ({e}) nor one of the families {}; name one of these or a TOML file that says \
                 which label is which tissue",
                Self::built_in_names().join(", ")
            ),
        })?;
        Self::parse(&text).map_err(|reason| PipelineError::Input { file, reason })
    }

    /// Reads the text of a family's file.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let file: FamilyFile = toml::from_str(text)
            .map_err(|e| format!("is not a family of label maps: {}", e.message().replace('\n', " ")))?;
        let mut family = Self {
            name: file.name,
            classes: Vec::new(),
            by_label: HashMap::new(),
            enclosed: HashMap::new(),
            has_ventricles: file.labels.contains_key(&Tissue::Ventricle),
        };
        // The map is in the order of the tissues: the background comes first.
        if !file.labels.get(&Tissue::Background).is_some_and(|groups| groups.iter().any(|g| !g.is_empty())) {
            return Err("names no label as background; add background = [[0]] to [labels]".into());
        }
        if !file.labels.keys().any(|tissue| tissue.is_parenchyma()) {
            return Err("names no label as grey or white; a head needs a brain".into());
        }
        let mut groups = 0;
        for (&tissue, of_tissue) in &file.labels {
            for labels in of_tissue {
                for &label in labels {
                    family.add(tissue, groups, label)?;
                }
                groups += 1;
            }
        }
        if family.classes.len() > MOST_CLASSES {
            return Err(format!(
                "names {} labels, vessels and dura counted twice; {MOST_CLASSES} are the most",
                family.classes.len()
            ));
        }
        Ok(family)
    }

    fn add(&mut self, tissue: Tissue, group: usize, label: i64) -> Result<(), String> {
        // Beyond `MOST_CLASSES` the number is of no use, and `parse` refuses the file.
        let next = |classes: &Vec<Class>| u8::try_from(classes.len()).unwrap_or(u8::MAX);
        // One class for all of the background: it lies beyond the map too.
        let class = if tissue == Tissue::Background { 0 } else { next(&self.classes) };
        if self.by_label.insert(label, class).is_some() {
            return Err(format!("names label {label} twice; give it one tissue"));
        }
        if tissue == Tissue::Background && !self.classes.is_empty() {
            return Ok(());
        }
        self.classes.push(Class { tissue, group, inside: tissue.is_brain_or_fluid() });
        if tissue.is_brain_inside() {
            self.enclosed.insert(class, next(&self.classes));
            self.classes.push(Class { tissue, group, inside: true });
        }
        Ok(())
    }

    /// The class of a label.
    pub fn class_of(&self, label: i64) -> Option<u8> {
        self.by_label.get(&label).copied()
    }

    /// The class that a class has within the brain's envelope.
    pub fn enclosed(&self, class: u8) -> u8 {
        self.enclosed.get(&class).copied().unwrap_or(class)
    }
}

/// The file beside label maps that says which family they are of.
pub const FAMILY_FILE: &str = "labels.toml";

/// The family of a map: as named, or that of the file `labels.toml` beside it.
///
/// # Errors
/// As [`Family::find`]; neither name nor file.
pub fn family_of(map: &Path, named: Option<&str>) -> Result<Family, PipelineError> {
    if let Some(name) = named {
        return Family::find(name);
    }
    let beside = map.with_file_name(FAMILY_FILE);
    if !beside.exists() {
        return Err(PipelineError::Input {
            file: map.to_path_buf(),
            reason: format!(
                "has no {FAMILY_FILE} beside it that says which label is which tissue; write one, or name a family: {}",
                Family::built_in_names().join(", ")
            ),
        });
    }
    Family::find(&beside.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_families_that_the_program_brings_are_whole() {
        for (name, text) in BUILT_IN {
            let family = Family::parse(text).unwrap();
            assert_eq!(family.name, name);
            assert_eq!(family.class_of(0), Some(0));
            assert_eq!(family.classes[0].tissue, Tissue::Background);
            assert!(family.classes.iter().any(|class| class.tissue == Tissue::Csf));
        }
    }

    #[test]
    fn vessels_are_brain_within_the_envelope_alone() {
        let family = Family::find("brainweb20").unwrap();
        let class = family.class_of(8).unwrap();
        assert!(!family.classes[usize::from(class)].inside);
        let enclosed = family.classes[usize::from(family.enclosed(class))];
        assert!(enclosed.inside && enclosed.tissue == Tissue::Vessel);
        let skull = family.class_of(7).unwrap();
        assert_eq!(family.enclosed(skull), skull);
    }

    #[test]
    fn faults_are_told_in_words() {
        let head = "name = \"own\"\n[labels]\n";
        for (body, want) in [
            ("grey = [[1]]", "background"),
            ("background = [[0]]\nskull = [[1]]", "needs a brain"),
            ("background = [[0]]\ngrey = [[1], [1]]", "label 1 twice"),
            ("background = [[0]]\ngray = [[1]]", "gray"),
        ] {
            let error = Family::parse(&format!("{head}{body}")).unwrap_err();
            assert!(error.contains(want), "{error}");
        }
        assert!(Family::find("no-such-family").unwrap_err().to_string().contains("synthseg-v2"));
    }
}
