//! Loads clips into a private cluster, answers style queries and writes a page to listen to.
