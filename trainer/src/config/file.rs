//! Reading a config: a file over its base, and settings replaced by name.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::Config;

impl Config {
    /// Reads and checks a config file. What it does not say is taken from the file it names as `base`, beside it. Relative paths are
    /// relative to the working directory.
    pub fn read(path: &Path) -> Result<Self> {
        Self::read_with(path, &[])
    }

    /// [`Self::read`] with some settings replaced: `training.encoder_rate=1e-4`, with a value as TOML writes it; what is no TOML
    /// value is taken as a string.
    ///
    /// # Errors
    /// As of reading, and when a replacement is not `NAME=VALUE` or goes through a setting that is no table.
    pub fn read_with(path: &Path, replaced: &[String]) -> Result<Self> {
        let mut table = table(path)?;
        if let Some(base) = table.remove("base") {
            let base = base.as_str().with_context(|| format!("base in {} is no file name", path.display()))?;
            let mut whole = self::table(&path.with_file_name(base))?;
            ensure!(!whole.contains_key("base"), "{base}, the base of {}, has a base itself", path.display());
            merge(&mut whole, table);
            table = whole;
        }
        replaced.iter().try_for_each(|setting| replace(&mut table, setting))?;
        let config: Self = table.try_into().with_context(|| format!("in the config {}", path.display()))?;
        config.check().with_context(|| format!("in the config {}", path.display()))?;
        Ok(config)
    }
}

/// The settings in a file.
fn table(path: &Path) -> Result<toml::Table> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read the config {}", path.display()))?;
    toml::from_str(&text).with_context(|| format!("in the config {}", path.display()))
}

/// Puts settings over those of a base, those of inner tables one by one.
fn merge(base: &mut toml::Table, over: toml::Table) {
    for (name, value) in over {
        match (base.get_mut(&name), value) {
            (Some(toml::Value::Table(inner)), toml::Value::Table(value)) => merge(inner, value),
            (_, value) => drop(base.insert(name, value)),
        }
    }
}

/// Replaces one setting, `a.b.c=value`.
fn replace(table: &mut toml::Table, setting: &str) -> Result<()> {
    let (name, value) = setting.split_once('=').with_context(|| format!("{setting:?} is not NAME=VALUE"))?;
    let (name, value) = (name.trim(), value.trim());
    let parsed = toml::from_str::<toml::Table>(&format!("value = {value}")).ok().and_then(|mut t| t.remove("value"));
    let (tables, last) = name.rsplit_once('.').unwrap_or(("", name));
    let mut place = table;
    for part in tables.split('.').filter(|part| !part.is_empty()) {
        let inner = place.entry(part).or_insert_with(|| toml::Table::new().into());
        place = inner.as_table_mut().with_context(|| format!("{setting:?}: {part} is not a table of settings"))?;
    }
    place.insert(last.into(), parsed.unwrap_or_else(|| value.into()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_config_does_not_say_is_as_in_its_base() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
        let read = |name: &str| Config::read(&folder.join(name)).unwrap();
        let (base, over) = (read("default.toml"), read("waveforms.toml"));
        assert_eq!(over.name, base.name);
        assert_ne!(over.version, base.version);
        assert_eq!((&over.data.root, &over.data.train), (&base.data.root, &base.data.train));
        assert_ne!(over.data.work, base.data.work);
        assert_eq!(over.augment.copies, base.augment.copies);
        assert!(over.augment.shown.is_some() && base.augment.shown.is_none());
        let mut table: toml::Table = toml::from_str("[a]\nx = [1]\ny = 2\nb = { z = 3 }\n").unwrap();
        merge(&mut table, toml::from_str("c = 0\n[a]\nx = [5]\n[a.b]\nw = 4\n").unwrap());
        assert_eq!(table, toml::from_str("c = 0\n[a]\nx = [5]\ny = 2\nb = { z = 3, w = 4 }\n").unwrap());
    }

    #[test]
    fn settings_are_replaced_by_name() {
        let mut table: toml::Table = toml::from_str("[a]\nrate = 1.0\n[b]\n").unwrap();
        for setting in ["a.rate=1e-4", "a.on = true", "b.c.name=target/x", "list=[1, 2]"] {
            replace(&mut table, setting).unwrap();
        }
        let wanted: toml::Table =
            toml::from_str("list = [1, 2]\n[a]\nrate = 1e-4\non = true\n[b.c]\nname = \"target/x\"\n").unwrap();
        assert_eq!(table, wanted);
        for wrong in ["rate", "a.rate.deeper=1"] {
            assert!(replace(&mut table, wrong).is_err(), "{wrong}");
        }
    }
}
