//! Vectors in binary form, as a statement's parameter and for COPY. Ours and pgvector's are the same bytes: dimensions
//! u16, 0 u16, elements f32, all big-endian.

use std::{error::Error, io::Write};

use anyhow::Result;
use bytes::{BufMut, BytesMut};
use postgres::{
    Client,
    types::{IsNull, ToSql, Type, to_sql_checked},
};

use crate::{data::Vectors, progress::Progress};

/// A vector as a parameter of a statement.
#[derive(Debug)]
pub struct Parameter<'a>(pub &'a [f32]);

impl ToSql for Parameter<'_> {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        encode(self.0, out);
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

/// A vector's text form, for statements that take no parameters.
pub fn text(vector: &[f32]) -> String {
    let elements: Vec<String> = vector.iter().map(f32::to_string).collect();
    format!("[{}]", elements.join(","))
}

/// Copies vectors into `table (id int, style ...)`; the first one's id is `first_id`.
pub fn copy(session: &mut Client, table: &str, vectors: &Vectors, first_id: usize) -> Result<()> {
    let mut copy = session.copy_in(&format!("COPY {table} (id, style) FROM STDIN (FORMAT binary)"))?;
    let mut buffer = BytesMut::new();
    buffer.put_slice(b"PGCOPY\n\xff\r\n\0");
    buffer.put_slice(&[0; 8]); // no flags, no header extension
    let progress = Progress::new(format!("COPY {table}"), vectors.len());
    for (i, vector) in vectors.iter().enumerate() {
        buffer.put_i16(2);
        buffer.put_i32(4);
        buffer.put_i32((first_id + i) as i32);
        buffer.put_i32((4 + 4 * vector.len()) as i32);
        encode(vector, &mut buffer);
        if buffer.len() > 1 << 16 {
            copy.write_all(&buffer)?;
            buffer.clear();
            progress.at(i);
        }
    }
    buffer.put_i16(-1);
    copy.write_all(&buffer)?;
    copy.finish()?;
    Ok(())
}

fn encode(vector: &[f32], out: &mut BytesMut) {
    out.put_u16(vector.len() as u16);
    out.put_u16(0);
    vector.iter().for_each(|element| out.put_f32(*element));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let mut bytes = BytesMut::new();
        encode(&[1.0, -2.0], &mut bytes);
        assert_eq!(bytes[..], [0, 2, 0, 0, 0x3f, 0x80, 0, 0, 0xc0, 0, 0, 0]);
        assert_eq!(text(&[1.0, -0.25]), "[1,-0.25]");
    }
}
