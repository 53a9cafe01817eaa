//! CRIU's RPC and image messages and their framing
