//! Find speech by how it was said, inside PostgreSQL.
