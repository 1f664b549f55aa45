//! Tells which container a file is by its first bytes and opens the demuxer for it. Knows no codecs and no limits.
//!
//! Symphonia's own probe is not used: it scans a megabyte for two-byte marks, so that a picture or a document can turn
//! out to be "an MP3", and it parses ID3 tags with their pictures, which nobody here needs.

use std::io::{Cursor, Read, Seek, SeekFrom};

use symphonia::core::errors::Error as SymphoniaError;
use symphonia::core::formats::{FormatOptions, FormatReader};
use symphonia::core::io::{MediaSource, MediaSourceStream, ReadBytes};
use symphonia::default::formats::{AdtsReader, FlacReader, IsoMp4Reader, MpaReader, OggReader, WavReader};

/// The file formats that are accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Container {
    /// RIFF WAVE.
    Wav,
    /// Native FLAC.
    Flac,
    /// Ogg (with Vorbis or FLAC inside).
    Ogg,
    /// Bare MPEG audio frames, perhaps after an ID3 tag.
    Mp3,
    /// Bare AAC frames.
    Adts,
    /// MP4 and M4A.
    Mp4,
}

impl Container {
    /// The name people know it by.
    pub fn name(self) -> &'static str {
        match self {
            Self::Wav => "WAV",
            Self::Flac => "FLAC",
            Self::Ogg => "Ogg",
            Self::Mp3 => "MP3",
            Self::Adts => "AAC",
            Self::Mp4 => "MP4",
        }
    }

    /// Whether the header states the exact number of frames, so that fewer of them mean a truncated file.
    pub(crate) fn states_exact_length(self) -> bool {
        matches!(self, Self::Wav | Self::Flac)
    }

    /// Whether a packet that cannot be decoded may be skipped: streams of a lossy codec are often cut from longer ones,
    /// and their first frames then refer to data that is not there.
    pub(crate) fn tolerates_damage(self) -> bool {
        matches!(self, Self::Mp3 | Self::Adts | Self::Ogg)
    }

    /// Recognises a file by its start; also gives the number of bytes before the audio container (an ID3v2 tag).
    pub(crate) fn sniff(bytes: &[u8]) -> Option<(Self, usize)> {
        let tag = id3v2_length(bytes);
        let start = bytes.get(tag..)?;
        // Some taggers leave zero padding behind the tag that its length does not count.
        let padding = if tag > 0 { start.iter().take_while(|byte| **byte == 0).count() } else { 0 };
        let start = &start[padding..];
        let container = match start {
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'A', b'V', b'E', ..] => Self::Wav,
            [b'f', b'L', b'a', b'C', ..] => Self::Flac,
            [b'O', b'g', b'g', b'S', ..] => Self::Ogg,
            [_, _, _, _, b'f', b't', b'y', b'p', ..] => Self::Mp4,
            // Twelve sync bits, then layer 0 is ADTS and layer 3 (binary 01) is MP3; eleven bits are MPEG 2.5.
            [0xff, second, ..] if second & 0xf6 == 0xf0 => Self::Adts,
            [0xff, second, ..] if second & 0xe6 == 0xe2 => Self::Mp3,
            _ => return None,
        };
        Some((container, tag + padding))
    }

    /// Reads the container's header.
    pub(crate) fn open<'a>(self, bytes: &'a [u8]) -> Result<Box<dyn FormatReader + 'a>, SymphoniaError> {
        // The MPEG and ADTS readers guess a length from the bit rate when they can seek, and then trim real sound that
        // lies behind it.
        let seekable = !matches!(self, Self::Mp3 | Self::Adts);
        let source = Source { cursor: Cursor::new(bytes), seekable };
        let mut stream = MediaSourceStream::new(Box::new(source), Default::default());
        let options = FormatOptions::default();
        Ok(match self {
            Self::Wav => Box::new(WavReader::try_new(stream, options)?),
            Self::Flac => Box::new(FlacReader::try_new(stream, options)?),
            Self::Ogg => Box::new(OggReader::try_new(stream, options)?),
            Self::Mp3 => Box::new(MpaReader::try_new(stream, options)?),
            Self::Adts => Box::new(AdtsReader::try_new(stream, options)?),
            Self::Mp4 => {
                // This reader expects to stand on the `ftyp` mark, four bytes in.
                stream.ignore_bytes(4)?;
                Box::new(IsoMp4Reader::try_new(stream, options)?)
            }
        })
    }
}

/// Channels that a WAV header states, if its format chunk is the first one, as nearly always.
pub(crate) fn wav_channels(bytes: &[u8]) -> Option<u16> {
    let is_first = bytes.get(12..16)? == b"fmt ";
    let channels = bytes.get(22..24)?.first_chunk::<2>()?;
    is_first.then(|| u16::from_le_bytes(*channels))
}

/// Bytes of a leading ID3v2 tag (header, body and footer), zero if there is none. The length may lie beyond the file.
fn id3v2_length(bytes: &[u8]) -> usize {
    let [b'I', b'D', b'3', _, _, flags, length @ ..] = bytes else { return 0 };
    let Some(length) = length.first_chunk::<4>() else { return 0 };
    // "Synchsafe": seven bits a byte, <https://id3.org/id3v2.4.0-structure>, section 6.2.
    let body = length.iter().fold(0usize, |sum, byte| (sum << 7) | usize::from(byte & 0x7f));
    let footer = if flags & 0x10 != 0 { 10 } else { 0 };
    10 + body + footer
}

struct Source<'a> {
    cursor: Cursor<&'a [u8]>,
    seekable: bool,
}

impl Read for Source<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.cursor.read(buffer)
    }
}

impl Seek for Source<'_> {
    fn seek(&mut self, position: SeekFrom) -> std::io::Result<u64> {
        self.cursor.seek(position)
    }
}

impl MediaSource for Source<'_> {
    fn is_seekable(&self) -> bool {
        self.seekable
    }

    fn byte_len(&self) -> Option<u64> {
        Some(self.cursor.get_ref().len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &[u8], expected: Option<(Container, usize)>) {
        assert_eq!(Container::sniff(bytes), expected, "{bytes:02x?}");
    }

    #[test]
    fn files_are_known_by_their_first_bytes() {
        check(b"RIFF\x24\0\0\0WAVEfmt ", Some((Container::Wav, 0)));
        check(b"RIFF\x24\0\0\0AVI LIST", None);
        check(b"fLaC\0", Some((Container::Flac, 0)));
        check(b"OggS\0", Some((Container::Ogg, 0)));
        check(b"\0\0\0\x18ftypM4A ", Some((Container::Mp4, 0)));
        check(&[0xff, 0xfb, 0x90, 0], Some((Container::Mp3, 0)));
        check(&[0xff, 0xf3, 0x90, 0], Some((Container::Mp3, 0)));
        check(&[0xff, 0xf1, 0x50, 0], Some((Container::Adts, 0)));
        check(b"ID3\x04\0\0\0\0\0\x02xx\xff\xfb", Some((Container::Mp3, 12)));
        check(b"ID3\x04\0\0\0\0\0\x02xx\0\0fLaC", Some((Container::Flac, 14)));
        check(b"ID3\x04\0\0\x7f\x7f\x7f\x7f", None);
        check(b"ID3", None);
        check(b"\x89PNG\r\n\x1a\n", None);
        check(b"", None);
    }
}
