//! The page to listen to: rankings by description, and a map of the clips. One file, nothing loaded from elsewhere.

use std::path::Path;

use anyhow::Result;
use postgres::Client;
use serde::Serialize;

use crate::{clip::Clip, map};

const TEMPLATE: &str = include_str!("page.html");

/// Ranked by on every page.
const DESCRIPTIONS: [&str; 14] = [
    "whispering",
    "an angry voice",
    "cheerful, happy speech",
    "a sad, tearful voice",
    "sounding afraid",
    "disgusted",
    "calm and neutral",
    "surprised",
    "laughing",
    "bored",
    "speaking very fast",
    "speaking slowly",
    "a high-pitched voice",
    "shouting",
];

/// Rows shown per description.
const SHOWN: i64 = 12;
/// More clips than this make the map slow to lay out and hard to read; a sample is drawn.
const ON_THE_MAP: i64 = 1500;

#[derive(Serialize)]
struct Page {
    clips: Vec<PageClip>,
    rankings: Vec<Ranking>,
    total: i64,
}

#[derive(Serialize)]
struct PageClip {
    id: i32,
    file: String,
    path: String,
    label: Option<String>,
    speaker: String,
    dataset: String,
    transcript: Option<String>,
    place: Option<(f32, f32)>,
}

#[derive(Serialize)]
struct Ranking {
    description: String,
    place: (f32, f32),
    rows: Vec<(usize, f64)>,
}

/// Asks the database for every ranking and writes the page.
pub fn write(session: &mut Client, clips: &[Clip], more: &[String], file: &Path) -> Result<()> {
    let descriptions: Vec<&str> = more.iter().map(String::as_str).chain(DESCRIPTIONS).collect();
    let mut page = Page { clips: Vec::new(), rankings: Vec::new(), total: 0 };
    page.total = session.query_one("SELECT count(*) FROM clips WHERE style IS NOT NULL", &[])?.get(0);

    let sample = session.query(
        "SELECT id, style::real[] FROM clips WHERE style IS NOT NULL ORDER BY hashint4(id) LIMIT $1",
        &[&ON_THE_MAP],
    )?;
    let speech: Vec<Vec<f32>> = sample.iter().map(|row| row.get(1)).collect();
    let mut texts = Vec::new();
    for description in &descriptions {
        texts.push(session.query_one("SELECT esr_embed_text($1)::real[]", &[description])?.get::<_, Vec<f32>>(0));
    }
    let places = map::lay_out(&speech, &texts);
    for (row, place) in sample.iter().zip(&places) {
        let clip = describe(session, clips, row.get(0), file)?;
        page.clips.push(PageClip { place: Some((place.x, place.y)), ..clip });
    }
    for (description, place) in descriptions.iter().zip(&places[speech.len()..]) {
        let nearest = session.query(
            "SELECT id, style <=> esr_embed_text($1) FROM clips WHERE style IS NOT NULL
             ORDER BY style <=> esr_embed_text($1) LIMIT $2",
            &[description, &SHOWN],
        )?;
        let mut rows = Vec::new();
        for row in nearest {
            let id: i32 = row.get(0);
            let known = page.clips.iter().position(|clip| clip.id == id);
            let position = match known {
                Some(position) => position,
                None => {
                    page.clips.push(describe(session, clips, id, file)?);
                    page.clips.len() - 1
                }
            };
            rows.push((position, row.get(1)));
        }
        page.rankings.push(Ranking { description: description.to_string(), place: (place.x, place.y), rows });
    }
    // "</" would end the script element early, whatever string it stands in.
    let data = serde_json::to_string(&page)?.replace("</", "<\\/");
    Ok(std::fs::write(file, TEMPLATE.replace("/*DATA*/null", &data))?)
}

fn describe(session: &mut Client, clips: &[Clip], id: i32, page: &Path) -> Result<PageClip> {
    let row = session.query_one(
        "SELECT c.path, c.label, s.name, d.name, c.transcript
         FROM clips c JOIN speakers s ON s.id = c.speaker_id JOIN datasets d ON d.id = c.dataset_id WHERE c.id = $1",
        &[&id],
    )?;
    let (path, dataset): (String, String) = (row.get(0), row.get(3));
    let source = clips.iter().find(|clip| clip.path == path && clip.dataset.name == dataset);
    let file = source.map_or(String::new(), |clip| address(&clip.file, page.parent().unwrap_or(page)));
    let (label, speaker, transcript) = (row.get(1), row.get(2), row.get(4));
    Ok(PageClip { id, file, path, label, speaker, dataset, transcript, place: None })
}

/// The address of a file as seen from a page in `folder`: relative where the file lies below it.
fn address(file: &Path, folder: &Path) -> String {
    let (prefix, path) = match file.strip_prefix(folder) {
        Ok(inside) => ("", inside),
        Err(_) => ("file://", file),
    };
    let escaped: String = path
        .to_string_lossy()
        .bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect();
    prefix.to_string() + &escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_relative_below_the_page_and_escaped() {
        let folder = Path::new("/out");
        assert_eq!(address(Path::new("/out/clips/a b#+.wav"), folder), "clips/a%20b%23%2B.wav");
        assert_eq!(address(Path::new("/else/x.ogg"), folder), "file:///else/x.ogg");
    }

    #[test]
    fn the_template_has_a_place_for_the_data_and_loads_nothing() {
        assert_eq!(TEMPLATE.matches("/*DATA*/null").count(), 1);
        assert!(!TEMPLATE.contains("http"), "the page must not load anything from elsewhere");
    }
}
