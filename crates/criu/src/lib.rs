//! Dump sessions, page server, image vetting, options
