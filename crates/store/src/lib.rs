//! Blob store and its backends, lineage log, commit, collection of garbage
