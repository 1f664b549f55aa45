//! Model folders and sounds for tests.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::cluster::Cluster;

/// The repository's root.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Puts the tiny test bundle into a model directory of its own beside a cluster, readable by the server, as the model
/// `tiny`; returns the directory.
pub fn tiny_model_directory(folder: &Path) -> Result<PathBuf> {
    let directory = folder.join("models");
    copy_bundle(&repository().join("extension/crates/encoder/tests/fixtures/tiny-bundle"), &directory.join("tiny"))?;
    Ok(directory)
}

/// Copies a bundle's files.
pub fn copy_bundle(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("reading {}", from.display()))? {
        let entry = entry?;
        fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}

/// Points a running cluster at the tiny model and reloads its settings.
pub fn use_tiny_model(cluster: &Cluster, more: &[(&str, &str)]) -> Result<()> {
    let directory = tiny_model_directory(cluster.folder())?;
    let directory = directory.display().to_string();
    let mut settings = vec![("esr.model_directory", directory.as_str()), ("esr.default_model", "tiny")];
    settings.extend_from_slice(more);
    cluster.override_settings(&settings)
}
