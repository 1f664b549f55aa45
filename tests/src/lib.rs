//! Client-side test suite on throw-away PostgreSQL clusters, and the harness that starts them.
