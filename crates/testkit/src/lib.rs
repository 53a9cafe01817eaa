//! Helpers for tests only
