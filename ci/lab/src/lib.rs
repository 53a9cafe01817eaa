//! Real nodes on one machine, as a tool and as a library of the end-to-end tests
