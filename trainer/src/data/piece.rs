//! A piece of a recording, written behind the path of its file in the manner of a media fragment:
//! `talk.wav#t=10.00000,20.00000&channel=1`. So a piece is named by one path wherever clips are named: manifests, caches,
//! errors. Knows names, not audio.

use std::path::{Path, PathBuf};

/// A stretch of time of one channel, or of all channels mixed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Piece {
    /// Start in seconds.
    pub from: f64,
    /// End in seconds; `None` is the end of the file.
    pub until: Option<f64>,
    /// Channel counted from 0; `None` is the mean of all.
    pub channel: Option<u16>,
}

impl Piece {
    /// The path of a piece of a file. Times are rounded to 10 microseconds, less than a sample at 48 kHz.
    pub fn of(self, file: &Path) -> PathBuf {
        let mut name = file.as_os_str().to_os_string();
        name.push(format!("#t={:.5}", self.from));
        if let Some(until) = self.until {
            name.push(format!(",{until:.5}"));
        }
        if let Some(channel) = self.channel {
            name.push(format!("&channel={channel}"));
        }
        name.into()
    }

    /// A path as the file it names and the piece of it; a path that ends in no fragment of this form names a whole file.
    pub fn split(path: &Path) -> (PathBuf, Option<Piece>) {
        let whole = || (path.to_path_buf(), None);
        let Some((file, fragment)) = path.to_str().and_then(|text| text.rsplit_once('#')) else { return whole() };
        match Self::parse(fragment) {
            Some(piece) => (file.into(), Some(piece)),
            None => whole(),
        }
    }

    fn parse(fragment: &str) -> Option<Piece> {
        let mut piece = Piece { from: 0.0, until: None, channel: None };
        let mut timed = false;
        for part in fragment.split('&') {
            match part.split_once('=')? {
                ("t", range) => {
                    let (from, until) =
                        range.split_once(',').map_or((range, None), |(from, until)| (from, Some(until)));
                    piece.from = from.parse().ok().filter(|t: &f64| *t >= 0.0)?;
                    piece.until = match until {
                        Some(until) => Some(until.parse().ok().filter(|t| *t > piece.from)?),
                        None => None,
                    };
                    timed = true;
                }
                ("channel", number) => piece.channel = Some(number.parse().ok()?),
                _ => return None,
            }
        }
        timed.then_some(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_survives_being_written_behind_a_path() {
        for piece in [
            Piece { from: 0.0, until: None, channel: None },
            Piece { from: 12.032, until: Some(22.032), channel: Some(1) },
            Piece { from: 3.5, until: None, channel: Some(0) },
        ] {
            let path = piece.of(Path::new("a folder/talk#1.wav"));
            assert_eq!(Piece::split(&path), (PathBuf::from("a folder/talk#1.wav"), Some(piece)), "{}", path.display());
        }
    }

    #[test]
    fn other_paths_name_whole_files() {
        for path in
            ["a.wav", "take #2.wav", "a.wav#t=5,2", "a.wav#t=-1", "a.wav#channel=1", "a.wav#t=0&speaker=1", "a#t="]
        {
            assert_eq!(Piece::split(Path::new(path)), (PathBuf::from(path), None));
        }
    }
}
