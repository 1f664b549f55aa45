//! Puts clips into the demo's tables, where the trigger embeds them, with a progress bar.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use postgres::Client;

use crate::clip::{Clip, Dataset};

/// What became of the clips.
pub struct Loaded {
    inserted: usize,
    there_already: usize,
    refused: Vec<(String, String)>,
    took: Duration,
}

impl Loaded {
    /// Says so in one line, and one more for each kind of refusal.
    pub fn report(&self) {
        let rate = self.inserted as f64 / self.took.as_secs_f64().max(1e-9);
        println!(
            "{} clips embedded in {:.1} s ({rate:.1}/s), {} were there already, {} refused",
            self.inserted,
            self.took.as_secs_f64(),
            self.there_already,
            self.refused.len()
        );
        for (path, reason) in self.refused.iter().take(10) {
            println!("  refused {path}: {reason}");
        }
    }
}

/// Inserts every clip that is not there yet; a clip that cannot be embedded is counted and the others go on.
pub fn insert(session: &mut Client, clips: &[Clip]) -> Result<Loaded> {
    let there: HashMap<(String, String), i64> = session
        .query(
            "SELECT d.name, c.path, length(c.audio)::bigint FROM clips c JOIN datasets d ON d.id = c.dataset_id",
            &[],
        )?
        .iter()
        .map(|row| ((row.get(0), row.get(1)), row.get(2)))
        .collect();
    let statement = session.prepare(
        "INSERT INTO clips (dataset_id, speaker_id, path, label, transcript, language, audio)
         VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT (dataset_id, path) DO UPDATE SET audio = excluded.audio, label = excluded.label",
    )?;
    let bar = ProgressBar::new(clips.len() as u64);
    bar.set_style(ProgressStyle::with_template("embedding {bar:40} {pos}/{len} clips, {eta} left")?);
    let mut loaded = Loaded { inserted: 0, there_already: 0, refused: Vec::new(), took: Duration::ZERO };
    let (mut datasets, mut speakers) = (HashMap::new(), HashMap::new());
    let start = Instant::now();
    for clip in clips {
        bar.inc(1);
        let audio = std::fs::read(&clip.file)?;
        if there.get(&(clip.dataset.name.clone(), clip.path.clone())) == Some(&(audio.len() as i64)) {
            loaded.there_already += 1;
            continue;
        }
        let dataset = dataset_id(session, &mut datasets, &clip.dataset)?;
        let speaker = speaker_id(session, &mut speakers, dataset, &clip.speaker)?;
        let values: [&(dyn postgres::types::ToSql + Sync); 7] =
            [&dataset, &speaker, &clip.path, &clip.label, &clip.transcript, &clip.language, &audio];
        match session.execute(&statement, &values) {
            Ok(_) => loaded.inserted += 1,
            Err(error) => match error.as_db_error() {
                Some(refusal) => loaded.refused.push((clip.path.clone(), refusal.message().to_string())),
                None => return Err(error.into()),
            },
        }
    }
    bar.finish_and_clear();
    loaded.took = start.elapsed();
    if let (0, 0, Some((path, reason))) = (loaded.inserted, loaded.there_already, loaded.refused.first()) {
        anyhow::bail!("not one clip could be embedded; {path}: {reason}");
    }
    Ok(loaded)
}

fn dataset_id(session: &mut Client, known: &mut HashMap<Dataset, i32>, dataset: &Dataset) -> Result<i32> {
    if let Some(id) = known.get(dataset) {
        return Ok(*id);
    }
    let row = session.query_one(
        "INSERT INTO datasets (name, licence, source) VALUES ($1, $2, $3)
         ON CONFLICT (name) DO UPDATE SET licence = excluded.licence RETURNING id",
        &[&dataset.name, &dataset.licence, &dataset.source],
    )?;
    known.insert(dataset.clone(), row.get(0));
    Ok(row.get(0))
}

fn speaker_id(session: &mut Client, known: &mut HashMap<(i32, String), i32>, dataset: i32, name: &str) -> Result<i32> {
    if let Some(id) = known.get(&(dataset, name.to_string())) {
        return Ok(*id);
    }
    let row = session.query_one(
        "INSERT INTO speakers (dataset_id, name) VALUES ($1, $2)
         ON CONFLICT (dataset_id, name) DO UPDATE SET name = excluded.name RETURNING id",
        &[&dataset, &name],
    )?;
    known.insert((dataset, name.to_string()), row.get(0));
    Ok(row.get(0))
}
