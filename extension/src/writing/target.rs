//! Which column of which table gets the embeddings of which other column.

use pgrx::pg_sys::Oid;
use pgrx::{PgSqlErrorCode, spi::SpiResult};

use crate::error::SqlError;
use crate::writing::spi::{self, column};

/// A table that holds rows itself, its two columns by number, so that renaming them changes nothing, and the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The table, a partition if there are any.
    pub relation: Oid,
    /// Number of the column with audio.
    pub audio: i16,
    /// Number of the column for the embedding.
    pub style: i16,
    /// Name of the model.
    pub model: String,
}

/// How the parts of a target are called now, quoted for SQL.
#[derive(Debug, Clone)]
pub struct Place {
    /// Schema and table.
    pub table: String,
    /// Column with audio.
    pub audio: String,
    /// Column for the embedding.
    pub style: String,
    /// Owner of the table.
    pub owner: Oid,
    /// The type `esr_vector`.
    pub vector: Oid,
    /// Schema of the extension.
    pub schema: String,
}

impl Target {
    /// Looks the names up; `None` if the table or one of the columns is gone.
    pub fn find(&self) -> Result<Option<Place>, SqlError> {
        let sql = "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname), pg_catalog.format('%I', a.attname),
                          pg_catalog.format('%I', s.attname), c.relowner, v.oid, pg_catalog.format('%I', e.nspname)
                   FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid == c.relnamespace
                        JOIN pg_catalog.pg_attribute a ON a.attrelid == c.oid AND a.attnum == $2 AND NOT a.attisdropped
                        JOIN pg_catalog.pg_attribute s ON s.attrelid == c.oid AND s.attnum == $3 AND NOT s.attisdropped,
                        pg_catalog.pg_extension x JOIN pg_catalog.pg_namespace e ON e.oid == x.extnamespace
                        JOIN pg_catalog.pg_type v ON v.typnamespace == e.oid AND v.typname == 'esr_vector'
                   WHERE c.oid == $1 AND x.extname == 'esr'";
        let read = |row: &pgrx::spi::SpiHeapTupleData<'_>| -> SpiResult<Place> {
            Ok(Place {
                table: column(row, 1)?,
                audio: column(row, 2)?,
                style: column(row, 3)?,
                owner: column(row, 4)?,
                vector: column(row, 5)?,
                schema: column(row, 6)?,
            })
        };
        Ok(spi::select(&spi::pin(sql), &[self.relation.into(), self.audio.into(), self.style.into()], read)?.pop())
    }

    /// As [`Target::find`], where the table must be there.
    pub fn place(&self) -> Result<Place, SqlError> {
        self.find()?.ok_or_else(|| {
            SqlError::new(
                PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE,
                format!("table {} or a column of it is gone", self.relation.to_u32()),
            )
            .hint("It was dropped while its rows were being embedded; nothing is left to do.")
        })
    }
}
